"""FcaLayer: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, Case, scaled
from ._numpy import conv, relu, sigmoid


def fca(x, p, training=False, frequencies=(), gate=sigmoid):
    """arXiv 2012.11879, equations 6 to 9, on a 7 x 7 grid."""
    n, c, h, w = x.shape
    small = np.zeros((n, c, 7, 7))
    for i in range(7):
        for j in range(7):
            rows, columns = slice(i * h // 7, -(-(i + 1) * h // 7)), slice(j * w // 7, -(-(j + 1) * w // 7))
            small[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    k = np.arange(7)
    z = np.zeros((n, c, 1, 1))
    for i in range(c):
        u, v = frequencies[i * len(frequencies) // c]
        basis = np.outer(np.cos(np.pi * u * (k + 0.5) / 7), np.cos(np.pi * v * (k + 0.5) / 7)) / 7
        basis *= (2**0.5 if u else 1) * (2**0.5 if v else 1)
        z[:, i, 0, 0] = (small[:, i] * basis).sum((1, 2))
    return x * gate(conv(relu(conv(z, p, "fc1")), p, "fc2"))


TOP4 = ((0, 0), (0, 1), (6, 0), (0, 5))


CASES = [
    Case(
        "FcaLayer",
        partial(fca, frequencies=TOP4),
        {"reduction": 2, "freq_sel_method": "top4"},
        applied=scaled,
        maps=CHANNELS,
        start="gate",
        tolerance=1e-7,  # the basis is float32
    ),
    Case(
        "FcaLayer",
        partial(fca, frequencies=((0, 0), (0, 1))),
        {"reduction": 1, "freq_sel_method": "low2"},
        (2, 4, 7, 7),
        tolerance=1e-7,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.FcaLayer(32, freq_sel_method="top3"), "such as 'top16', but got 'top3'"),
    (lambda: pa.FcaLayer(24), "channels=24 is not divisible by the 16 frequencies"),
    (lambda: pa.FcaLayer(32, dct_h=5), "at least 7, but got 5 and 7"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("wave if frequency == 0 else wave * np.sqrt(2.0)", "wave"),
    ("np.arange(length) + 0.5", "np.arange(length)"),
    ("np.outer(self._wave(u", "np.outer(self._wave(v"),
]


class TestFcaLayer(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_narrow_layers_have_a_least_width():
    """channels // reduction would be 0."""
    layer = pa.FcaLayer(8, freq_sel_method="top8", min_hidden=3)
    widths = {value.shape[0] for key, value in layer.state_dict().items() if key.endswith("fc1.weight")}
    assert widths == {3}
