"""CrissCrossAttention: reference, cases, mutants."""

import numpy as np
from layer_tester import shared_tests

from ._case import KEY_BIAS, Case
from ._numpy import attend, conv


def criss_cross(x, p, training=False, prefix=""):
    """arXiv 1811.11721, equations 1 and 2, position by position."""
    query, key, value = (conv(x, p, f"{prefix}{name}_conv") for name in ("query", "key", "value"))
    h, w = x.shape[2:]
    y = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            others = [k for k in range(h) if k != i]
            keys = np.concatenate([key[:, :, others, j], key[:, :, i, :]], axis=2)
            values = np.concatenate([value[:, :, others, j], value[:, :, i, :]], axis=2)
            y[:, :, i, j] = attend(query[:, :, i, j, None], keys, values)[:, :, 0]
    return p[f"{prefix}gamma"] * y + x


CASES = [
    Case(
        "CrissCrossAttention",
        criss_cross,
        maps={"column": "n h w h", "row": "n h w w"},
        start="identity",
        dead=KEY_BIAS,
    ),
    Case("CrissCrossAttention", criss_cross, {"reduction": 2}, (2, 4, 7, 3), dead=KEY_BIAS),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ('paddle.full_like(column, float("-inf"))', "column"),
    ("down.transpose([0, 2, 1, 3]) + along", "along"),
    (
        "weights = F.softmax(paddle.concat([column, row], axis=3), axis=3)\n",
        "weights = paddle.concat([F.softmax(column, axis=3), F.softmax(row, axis=3)], axis=3)\n",
    ),
]


class TestCrissCrossAttention(shared_tests(CASES)):
    """The tests that every mechanism has."""
