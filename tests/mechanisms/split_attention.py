"""SplitAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import batch_norm, conv, pool, relu, sigmoid, softmax


def split_attention(x, p, training=False, radix=2, groups=1, stride=1):
    """arXiv 2004.08955, equations 1 and 2."""
    y = relu(batch_norm(conv(x, p, "conv", stride, 1, groups=groups * radix), p, "bn0", training))
    splits = np.split(y, radix, axis=1)
    z = conv(pool(sum(splits)), p, "fc1", groups=groups)
    logits = conv(relu(batch_norm(z, p, "bn1", training)), p, "fc2", groups=groups)
    if radix == 1:
        return y * sigmoid(logits)
    logits = logits.reshape(len(x), groups, radix, -1).transpose(0, 2, 1, 3)
    weights = softmax(logits, axis=1).reshape(len(x), radix, -1, 1, 1)
    return sum(weights[:, i] * v for i, v in enumerate(splits))


CASES = [
    Case("SplitAttention", split_attention, {}, (3, 8, 5, 6), weights_of=1, maps="n 2 8 1 1"),
    Case(
        "SplitAttention",
        partial(split_attention, radix=3, groups=2, stride=2),
        {"radix": 3, "groups": 2, "stride": 2, "out_channels": 4, "bias": True},
        (3, 12, 6, 5),
    ),
    Case(
        "SplitAttention",
        partial(split_attention, radix=1),
        {"radix": 1},
        (3, 4, 5, 3),
        maps="n 1 4 1 1",
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.SplitAttention(9), "channels=9 is not divisible by 2"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("weights = F.softmax(logits, axis=1)", "weights = F.softmax(logits, axis=2)"),
    ("logits = logits.transpose([0, 2, 1, 3])", "logits = logits.reshape([0, self.radix, self.groups, -1])"),
    ("F.relu(self.bn1(self.fc1", "(self.bn1(self.fc1"),
]


class TestSplitAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
