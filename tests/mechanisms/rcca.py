"""RCCA: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import conv_abn
from .criss_cross_attention import criss_cross


def rcca(x, p, training=False, recurrence=2, **options):
    """arXiv 1811.11721, section 3.3."""
    y = conv_abn(x, p, "conva", training, padding=1, **options)
    for _ in range(recurrence):
        y = criss_cross(y, p, training, "cca.")
    y = conv_abn(y, p, "convb", training, padding=1, **options)
    return conv_abn(np.concatenate([x, y], 1), p, "bottleneck", training, padding=1, **options)


CASES = [
    Case(
        "RCCA",
        rcca,
        {"dropout": 0.0},
        (2, 32, 4, 3),
        maps=[{"column": "n h w h", "row": "n h w w"}] * 2,
        dead=("cca.key_conv.bias",),
    ),
    Case(
        "RCCA",
        partial(rcca, recurrence=1, abs_gamma=True),
        {"dropout": 0.0, "recurrence": 1, "abs_gamma": True},
        (2, 32, 3, 4),
        dead=("cca.key_conv.bias",),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.RCCA(64, dropout="8"), r"RCCA: dropout must be within \[0, 1\], but got '8'"),
    (lambda: pa.RCCA(16), "give at least 32 channels"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("paddle.concat([x, self.convb(y)], axis=1)", "paddle.concat([self.convb(y), x], axis=1)"),
    (
        "for _ in range(self.recurrence):\n            y = self.cca(y)\n        return",
        "y = self.cca(y)\n        return",
    ),
    ("self.convb = unit(inter, inter)", "self.convb = conv(inter, inter)"),
]


class TestRCCA(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
