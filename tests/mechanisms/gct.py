"""GCT: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, Case, scaled


def gct(x, p, training=False, mode="l2", eps=1e-5):
    """arXiv 1909.11519, equations 2 to 5."""
    if mode == "l2":
        s = np.sqrt((x**2).sum((2, 3), keepdims=True) + eps) * p["alpha"]
        s_hat = s / np.sqrt((s**2).mean(1, keepdims=True) + eps)
    else:
        s = np.abs(x).sum((2, 3), keepdims=True) * p["alpha"]
        s_hat = s / (np.abs(s).mean(1, keepdims=True) + eps)
    return x * (1 + np.tanh(p["gamma"] * s_hat + p["beta"]))


CASES = [
    Case("GCT", gct, {}, applied=scaled, maps=CHANNELS, start="identity"),
    Case("GCT", partial(gct, mode="l1"), {"mode": "l1"}),
]


BAD_ARGUMENTS = [
    (lambda: pa.GCT(8, epsilon=-1), "epsilon must be a positive number, but got -1"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("1.0 + paddle.tanh", "paddle.tanh"),
    ("alpha * alpha * (1.0 / self.channels)", "alpha * alpha"),
    ("paddle.abs(alpha) * (1.0 / self.channels)", "alpha * (1.0 / self.channels)"),
    ("norm = paddle.sqrt(total)", "norm = total"),
    ("(alpha * gamma)", "gamma"),
]


class TestGCT(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
