"""CAM: reference, cases, mutants."""

import numpy as np
from layer_tester import shared_tests

from ._case import Case
from ._numpy import flat, softmax


def cam(x, p, training=False):
    """arXiv 1809.02983, equations 3 and 4, with the maximum of the authors' code."""
    scores = np.einsum("ncl,ndl->ncd", flat(x), flat(x))
    weights = softmax(scores.max(-1, keepdims=True) - scores)
    return p["gamma"] * np.einsum("ncd,ndl->ncl", weights, flat(x)).reshape(x.shape) + x


CASES = [
    Case("CAM", cam, {}, (2, 5, 3, 4), weights_of=2, maps="n c c", start="identity"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("F.softmax(-matmul_transposed", "F.softmax(matmul_transposed"),
    (
        "y = paddle.matmul(weights, widen(x).flatten(2))",
        "y = paddle.matmul(weights, widen(x).flatten(2), transpose_x=True)",
    ),
    ("flat, flat), axis=-1)", "flat, flat), axis=-2)"),
]


class TestCAM(shared_tests(CASES)):
    """The tests that every mechanism has."""
