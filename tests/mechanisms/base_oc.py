"""BaseOC: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import AMONG, RESIZED, TWO, Case
from ._numpy import conv_abn
from .object_context_block import object_context


def base_oc(x, p, training=False, sizes=(1,), **options):
    """arXiv 1809.00916, section 3.2: [context, features]."""
    context = sum(
        object_context(x, p, training, f"stages.{i}.", scale=s, **options) for i, s in enumerate(sizes)
    )
    return conv_abn(np.concatenate([context, x], 1), p, "conv_bn_dropout", training, **options)


CASES = [
    Case(
        "BaseOC",
        base_oc,
        {"dropout": 0.0},
        (2, 6, 5, 4),
        weights_of=2,
        maps=[AMONG],
        tolerance=1e-7,  # the effective momentum of a shared normalisation is float32
    ),
    Case(
        "BaseOC",
        partial(base_oc, sizes=(1, 2), abs_gamma=True),
        {"dropout": 0.0, "sizes": [1, 2], "key_channels": 3, "value_channels": 5, "abs_gamma": True},
        (2, 6, 5, 6),
        sizes=TWO,
        **RESIZED,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.BaseOC(8, sizes=[]), "sizes is empty"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("paddle.concat([context, x], axis=1)", "paddle.concat([x, context], axis=1)"),
    ("object_context_block.py", "value.flatten(2), self.key_channels**-0.5)", "value.flatten(2))"),
    ("context = context + stage(x)", "context = stage(x)"),
    ("_abn.py", "F.leaky_relu(y, 0.01)", "F.relu(y)"),
    (
        "_abn.py",
        "paddle.abs(self.weight) + 1e-5).reshape(shape) + self.bias.reshape(shape)\n        if",
        "self.weight + 1e-5).reshape(shape) + self.bias.reshape(shape)\n        if",
    ),
    ("_abn.py", "self.bn = batch_norm(channels, momentum)", "self.bn = batch_norm(channels, 0.1)"),
]


class TestBaseOC(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
