"""ChannelAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, Case, scaled
from ._numpy import fully_connected, sigmoid


def channel_attention(x, p, training=False, pools=("avg", "max"), prefix=""):
    """arXiv 1807.06521, equation 2."""
    largest = x.max((2, 3))
    pooled = {
        "avg": x.mean((2, 3)),
        "max": largest,
        "lp": np.sqrt((x**2).sum((2, 3))),
        "lse": largest + np.log(np.exp(x - largest[:, :, None, None]).sum((2, 3))),
    }
    total = 0.0
    for pool in pools:
        hidden = np.maximum(fully_connected(pooled[pool], p, prefix + "fc1"), 0)
        total = total + fully_connected(hidden, p, prefix + "fc2")
    return x * sigmoid(total)[:, :, None, None]


CASES = [
    Case(
        "ChannelAttention",
        channel_attention,
        {"reduction": 4},
        applied=scaled,
        maps=CHANNELS,
        start="gate",
    ),
    Case(
        "ChannelAttention",
        partial(channel_attention, pools=("max",)),
        {"hidden_channels": 3, "pool_types": ["max"], "bias": False},
    ),
    Case(
        "ChannelAttention",
        partial(channel_attention, pools=("lp", "lse", "avg")),
        {"reduction": 2, "pool_types": ["lp", "lse", "avg"]},
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.ChannelAttention(8, 9), "channels=8 // reduction=9"),
    (lambda: pa.ChannelAttention(8, 2, pool_types=["avg", "mean"]), r"\['avg', 'mean'\]"),
    (lambda: pa.ChannelAttention(8, 2, pool_types=[]), r"got \[\]"),
    (lambda: pa.ChannelAttention(8, 2, pool_types=["max", "max"]), r"\['max', 'max'\]"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("branch if logits is None else logits + branch", "branch"),
    ("self.fc2(self.relu(self.fc1(self._pool", "self.fc2((self.fc1(self._pool"),
    (
        "paddle.logsumexp(flat, axis=-1, keepdim=True)",
        "paddle.log(paddle.exp(flat).mean(axis=-1, keepdim=True))",
    ),
    (
        "F.adaptive_avg_pool2d(wide * wide, 1) * count_positions(wide)",
        "F.adaptive_avg_pool2d(wide * wide, 1)",
    ),
    ("return F.adaptive_max_pool2d(x, 1)", "return F.adaptive_max_pool2d(x, 1) * 0.99"),
]


class TestChannelAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_narrow_layers_have_a_least_width():
    """channels // reduction would be 0."""
    layer = pa.ChannelAttention(8, min_hidden=3)
    widths = {value.shape[0] for key, value in layer.state_dict().items() if key.endswith("fc1.weight")}
    assert widths == {3}
