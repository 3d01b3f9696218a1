"""ECA: reference, cases, mutants."""

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, Case, scaled
from ._numpy import sigmoid


def eca(x, p, training=False, gate=sigmoid):
    """arXiv 1910.03151, equation 9."""
    kernel = p["conv.weight"][0, 0, :, 0]
    half = len(kernel) // 2
    z = np.pad(x.mean((2, 3)), ((0, 0), (half, half)))
    c = x.shape[1]
    logits = sum(kernel[j] * z[:, j : j + c] for j in range(len(kernel)))
    return x * gate(logits)[:, :, None, None]


CASES = [
    Case("ECA", eca, {"k_size": 3}, applied=scaled, maps=CHANNELS, start="gate"),
    Case("ECA", eca, {}, (2, 70, 4, 3)),
]


BAD_ARGUMENTS = [
    (lambda: pa.ECA(8, k_size=4), "k_size must be odd .* got 4; use 3 or 5"),
    (lambda: pa.ECA(8, gamma=0), "gamma must be a positive number, but got 0"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("padding=(k_size // 2, 0)", "padding=(k_size // 2, 0), padding_mode='replicate'"),
    ("(math.log2(channels) + b) / gamma", "(math.log2(channels) - b) / gamma"),
    ("_base.py", "return x * self.gate(x)", "return x + x * self.gate(x)"),
]


class TestECA(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_kernel_sizes_of_eca():
    from paddle_attention.layers.eca import eca_kernel_size

    sizes = {64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7, 1: 1}
    assert {c: eca_kernel_size(c) for c in sizes} == sizes
    assert pa.ECA(256).conv.weight.shape == [1, 1, 5, 1]
