"""DAModule: reference, cases, mutants."""

import numpy as np
import paddle
from layer_tester import parameters_of, relative, shared_tests

import paddle_attention as pa

from ._case import Case, randomise
from ._numpy import batch_norm, conv, relu
from .cam import cam
from .pam import pam


def _da_branches(x, p, training=False):
    """``(position, channel)`` of arXiv 1809.02983, Figure 2."""

    def unit(v, name):
        return relu(batch_norm(conv(v, p, f"{name}.0", padding=1), p, f"{name}.1", training))

    def under(prefix):
        return {k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}

    position = unit(pam(unit(x, "conv5a"), under("sa.")), "conv51")
    return position, unit(cam(unit(x, "conv5c"), under("sc.")), "conv52")


def da_module(x, p, training=False):
    return conv(sum(_da_branches(x, p, training)), p, "conv8.1")


def da_head(x, p, training=False):
    position, channel = _da_branches(x, p, training)
    pairs = ((position + channel, "conv8"), (position, "conv6"), (channel, "conv7"))
    return [conv(v, p, f"{name}.1") for v, name in pairs]


CASES = [
    Case(
        "DAModule",
        da_module,
        {"dropout": 0.0},
        (2, 32, 3, 4),
        maps={"position": "n l l", "channel": "n 8 8"},
        weights_of=2,
        dead=("sa.key_conv.bias",),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.DAHead(16, 5), "give at least 32 channels"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "return self.conv8(position + channel), self.conv6(position), self.conv7(channel)",
        "return self.conv8(position + channel), self.conv6(channel), self.conv7(position)",
    ),
    (
        "return self.conv8(position + channel), self.conv6(position), self.conv7(channel)",
        "return self.conv8(position), self.conv6(position), self.conv7(channel)",
    ),
    ("self.conv51(self.sa(self.conv5a(x)))", "self.conv51(self.sa(self.conv5c(x)))"),
    ("return self.conv8(position + channel)\n", "return self.conv8(position)\n"),
    ("self.conv52(self.sc(self.conv5c(x)))", "self.conv52(self.sc(self.conv5a(x)))"),
    ("inter = channels // 4", "inter = channels // 8"),
]


class TestDAModule(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_dual_attention_head():
    layer = randomise(pa.DAHead(32, 5, dropout=0.0).to(dtype="float64"))
    layer.eval()
    x = np.random.RandomState(1).standard_normal((2, 32, 4, 3))
    p = parameters_of(layer)

    expected = da_head(x, p)
    outputs = layer(paddle.to_tensor(x))
    assert len(outputs) == 3
    for got, wanted in zip(outputs, expected, strict=True):
        assert relative(got.numpy(), wanted) < 1e-9
    assert pa.DAHead(32, 5).conv6[0].p == 0.1
