"""PyramidOC: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import AMONG, TWO, Case
from ._numpy import conv_abn
from .object_context_block import object_context


def pyramid_oc(x, p, training=False, sizes=(1,), **options):
    """arXiv 1809.00916, section 3.2: [features, contexts]."""
    parts = [conv_abn(x, p, "up_dr", training, **options)]
    parts += [
        object_context(x, p, training, f"stages.{i}.", partition=s, **options) for i, s in enumerate(sizes)
    ]
    return conv_abn(np.concatenate(parts, 1), p, "conv_bn_dropout", training, **options)


CASES = [
    Case(
        "PyramidOC",
        partial(pyramid_oc, sizes=(1, 2)),
        {"dropout": 0.0, "sizes": [1, 2]},
        (2, 4, 5, 7),
        sizes=TWO,
        maps=[AMONG, ["n 6 6", "n 8 8", "n 9 9", "n 12 12"]],
    ),
    Case(
        "PyramidOC",
        partial(pyramid_oc, sizes=(3,), abs_gamma=True),
        {"dropout": 0.0, "sizes": 3, "abs_gamma": True},
        (2, 4, 7, 6),
        sizes=((3, 3), (5, 9)),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.PyramidOC(8, sizes=[0]), "sizes must be a positive integer, but got 0"),
    (
        lambda: pa.PyramidOC(8)(paddle.zeros([1, 8, 5, 9])),
        "partition=6 need a map of at least 6 x 6, but got 5 x 9",
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "[self.up_dr(x)] + [stage(x) for stage in self.stages]",
        "[stage(x) for stage in self.stages] + [self.up_dr(x)]",
    ),
    ("object_context_block.py", "((self.partition - 1) * step, length)", "(length - step, length)"),
    (
        "object_context_block.py",
        "paddle.concat(row, axis=3) for row in rows], axis=2",
        "paddle.concat(row[::-1], axis=3) for row in rows], axis=2",
    ),
]


class TestPyramidOC(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
