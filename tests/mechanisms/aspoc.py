"""ASPOC: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import RESIZED, TWO, Case
from ._numpy import conv_abn
from .object_context_block import object_context


def asp_oc(x, p, training=False, dilations=(12, 24, 36), **options):
    """arXiv 1809.00916, section 3.2: [context, 1x1, dilated...]."""
    context = conv_abn(x, p, "context", training, padding=1, **options)
    context = object_context(context, p, training, "context.2.stages.0.", scale=2, **options)
    parts = [conv_abn(context, p, "context.2.conv_bn_dropout", training, **options)]
    parts.append(conv_abn(x, p, "conv2", training, **options))
    for i, d in enumerate(dilations):
        parts.append(conv_abn(x, p, f"conv{i + 3}", training, padding=d, dilation=d, **options))
    return conv_abn(np.concatenate(parts, 1), p, "conv_bn_dropout", training, **options)


CASES = [
    Case(
        "ASPOC",
        partial(asp_oc, dilations=(1, 2, 3)),
        {"dropout": 0.0, "dilations": [1, 2, 3]},
        (2, 6, 5, 6),
        sizes=TWO,
        weights_of=2,
        maps="n 6 6",
        **RESIZED,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.ASPOC(7), "channels=7 is odd"),
    (lambda: pa.ASPOC(8, dilations=[1, 2]), r"takes three integers, but got \[1, 2\]"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("branches = (self.context, self.conv2,", "branches = (self.conv2, self.context,"),
    ("object_context_block.py", "context = self.W(context)", "context = F.relu(self.W(context))"),
    (
        "object_context_block.py",
        "size_of(x, (2, 3)), align_corners=True)",
        "size_of(x, (2, 3)), align_corners=False)",
    ),
]


class TestASPOC(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
