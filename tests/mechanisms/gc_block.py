"""GCBlock: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import GATED, PIXELS, Case
from ._numpy import conv, flat, fully_connected, layer_norm, relu, sigmoid, softmax


def attention_pool(x, p):
    return np.einsum("ncl,nl->nc", flat(x), softmax(flat(conv(x, p, "conv_mask")))[:, 0])


def gc(x, p, training=False, att=True, fusions=("channel_add",), gate=sigmoid, eps=1e-5):
    """arXiv 1904.11492, equation 5; first multiplied, then added to."""
    context = attention_pool(x, p) if att else x.mean((2, 3))

    def transform(name):
        hidden = relu(layer_norm(fully_connected(context, p, f"{name}.conv1"), p, f"{name}.norm", eps))
        return fully_connected(hidden, p, f"{name}.conv2")[:, :, None, None]

    y = x * gate(transform("channel_mul_conv")) if "channel_mul" in fusions else x
    return y + transform("channel_add_conv") if "channel_add" in fusions else y


BOTH_FUSIONS = ("channel_add", "channel_mul")


CASES = [
    Case("GCBlock", gc, {"ratio": 0.5}, maps=PIXELS, start="identity", dead=("conv_mask.bias",)),
    Case(
        "GCBlock",
        partial(gc, fusions=BOTH_FUSIONS),
        {"ratio": 0.25, "fusion_types": list(BOTH_FUSIONS)},
        (2, 12, 4, 6),
        dead=("conv_mask.bias",),
    ),
    Case(
        "GCBlock",
        partial(GATED(gc), att=False, fusions=("channel_mul",), eps=1e-6),
        {
            "ratio": 0.5,
            "pooling_type": "avg",
            "fusion_types": "channel_mul",
            "identity_init": True,
            "epsilon": 1e-6,
        },
        start="identity",
        maps=None,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.GCBlock(8, 0.5, epsilon=-1), "GCBlock: epsilon must be a positive number, but got -1"),
    (lambda: pa.GCBlock(8, ratio=0.1), "leaves no hidden channel; choose ratio >= 0.125"),
    (lambda: pa.GCBlock(8, ratio="1/4"), "ratio must be a positive number, but got '1/4'"),
    (lambda: pa.GCBlock(8, 0.5, fusion_types=["add"]), r"but got \('add',\)"),
    (
        lambda: pa.GCBlock(8, 0.5, "avg").attention_maps(paddle.zeros([1, 8, 2, 2])),
        "weighs all positions alike",
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("F.softmax(mask.flatten(2), axis=-1)", "F.sigmoid(mask.flatten(2))"),
    ("y = y + self.channel_add_conv(context)", "y = y - self.channel_add_conv(context)"),
    ("self.conv2(F.relu(hidden)", "self.conv2((hidden)"),
]


class TestGCBlock(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_multiplying_context_starts_at_half():
    x = paddle.randn([1, 8, 3, 3])
    layer = pa.GCBlock(8, 0.5, fusion_types="channel_mul")
    np.testing.assert_allclose(layer(x).numpy(), 0.5 * x.numpy(), rtol=1e-6)
