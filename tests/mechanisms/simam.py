"""SimAM: reference, cases, mutants."""

from functools import partial

from layer_tester import shared_tests

import paddle_attention as pa

from ._case import EVERY, Case, scaled
from ._numpy import pool, sigmoid


def simam(x, p, training=False, e_lambda=1e-4):
    """The paper's equation 5."""
    square = (x - pool(x)) ** 2
    variance = square.sum((2, 3), keepdims=True) / max(x.shape[2] * x.shape[3] - 1, 1)
    return x * sigmoid(square / (4 * (variance + e_lambda)) + 0.5)


CASES = [
    Case("SimAM", simam, applied=scaled, maps=EVERY),
    Case("SimAM", partial(simam, e_lambda=0.1), {"e_lambda": 0.1}, (2, 3, 6, 4)),
]


BAD_ARGUMENTS = [
    (lambda: pa.SimAM(8, e_lambda=0), "e_lambda must be a positive number, but got 0"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (" * unbiased(wide)", ""),
    ("+ 0.5)", ")"),
    ("4.0 * self.e_lambda", "4e-4"),
]


class TestSimAM(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
