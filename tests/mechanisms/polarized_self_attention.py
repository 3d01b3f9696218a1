"""PolarizedSelfAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, PIXELS, Case
from ._numpy import conv, flat, fully_connected, layer_norm, relu, sigmoid, softmax


def polarized(x, p, training=False, parallel=True):
    """arXiv 2107.00782, equations 1 to 4."""

    def channel(x):
        weights = softmax(flat(conv(x, p, "conv_q_right")))
        z = np.einsum("ncl,nl->nc", flat(conv(x, p, "conv_v_right")), weights[:, 0])
        if parallel:
            return sigmoid(fully_connected(z, p, "conv_up"))[:, :, None, None]
        hidden = relu(layer_norm(fully_connected(z, p, "conv_up.conv1"), p, "conv_up.norm"))
        return sigmoid(fully_connected(hidden, p, "conv_up.conv2"))[:, :, None, None]

    def spatial(x):
        query, values = conv(x, p, "conv_q_left").mean((2, 3)), flat(conv(x, p, "conv_v_left"))
        if parallel:
            weights = softmax(np.einsum("nc,ncl->nl", query, values))
        else:
            weights = np.einsum("nc,ncl->nl", query, softmax(values))
        return sigmoid(weights).reshape(len(x), 1, *x.shape[2:])

    if parallel:
        return x * channel(x) + x * spatial(x)
    x = x * channel(x)
    return x * spatial(x)


CASES = [
    Case(
        "PolarizedSelfAttention",
        polarized,
        applied=lambda x, m: x * m["channel"] + x * m["spatial"],
        maps={"channel": CHANNELS, "spatial": PIXELS},
    ),
    Case(
        "PolarizedSelfAttention",
        partial(polarized, parallel=False),
        {"mode": "sequential"},
        (2, 32, 4, 6),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.PolarizedSelfAttention(4, mode="sequential"), "mode='sequential' needs at least 8"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "x * self.spatial_gate(x) + x * self.channel_gate(x)",
        "x * self.spatial_gate(x) * self.channel_gate(x)",
    ),
    ("F.softmax(flat, axis=2)", "F.softmax(flat, axis=1)"),
    ("self.conv_up.conv2(F.relu(hidden)", "self.conv_up.conv2((hidden)"),
]


class TestPolarizedSelfAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
