"""CoordAttention: reference, cases, mutants."""

import numpy as np
from layer_tester import shared_tests

from ._case import GATED, Case, scaled
from ._numpy import batch_norm, conv, hard_sigmoid, sigmoid


def coord(x, p, training=False, gate=sigmoid):
    """arXiv 2103.02907, equations 4 to 9."""
    h = x.shape[2]
    pooled = np.concatenate([x.mean(3), x.mean(2)], axis=2)[..., None]
    y = batch_norm(conv(pooled, p, "conv1"), p, "bn1", training)
    y = y * hard_sigmoid(y)
    rows = gate(conv(y[:, :, :h], p, "conv_h"))
    columns = gate(conv(y[:, :, h:], p, "conv_w")).transpose(0, 1, 3, 2)
    return x * rows * columns


CASES = [
    Case(
        "CoordAttention",
        coord,
        {"reduction": 4},
        applied=scaled,
        maps={"row": "n c h 1", "column": "n c 1 w"},
        start="gate",
    ),
    Case("CoordAttention", GATED(coord), {"identity_init": True}, (2, 5, 4, 9)),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("return x * columns * rows", "return x * rows"),
    ("y = y * hard_sigmoid(y)", "y = F.relu(y)"),
    ("(self.conv_h, self.conv_w)", "(self.conv_h, self.conv_h)"),
]


class TestCoordAttention(shared_tests(CASES)):
    """The tests that every mechanism has."""
