"""SpatialAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
import pytest
from layer_tester import shared_tests

import paddle_attention as pa
from paddle_attention import SpatialAttention
from paddle_attention.layers.channel_attention import max_over_pixels, max_over_pixels_deployed
from paddle_attention.layers.spatial_attention import max_over_channels, max_over_channels_deployed

from ._case import PIXELS, Case, scaled
from ._numpy import batch_norm, conv, sigmoid


def spatial_attention(x, p, training=False, bn=True, prefix=""):
    """arXiv 1807.06521, equation 3, with the maps in the order [max, mean] of the authors' code."""
    maps = np.stack([x.max(1), x.mean(1)], axis=1)
    logits = conv(maps, p, prefix + "conv", padding=p[prefix + "conv.weight"].shape[-1] // 2)
    if bn:
        logits = batch_norm(logits, p, prefix + "bn", training)
    return x * sigmoid(logits)


CASES = [
    Case("SpatialAttention", spatial_attention, applied=scaled, maps=PIXELS, start="gate"),
    Case(
        "SpatialAttention",
        partial(spatial_attention, bn=False),
        {"kernel_size": 3, "bn": False},
        (2, 5, 9, 4),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.SpatialAttention(8, kernel_size=4), "kernel_size must be odd.*got 4; use 3 or 5"),
    (lambda: pa.SpatialAttention(8, bn_momentum=1.5), r"bn_momentum must be within \[0, 1\], but got 1.5"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "maps = [max_over_channels(x), paddle.mean(x, axis=1, keepdim=True)]",
        "maps = [paddle.mean(x, axis=1, keepdim=True), max_over_channels(x)]",
    ),
    ("paddle.mean(x, axis=1, keepdim=True)]", "paddle.mean(x, axis=1, keepdim=True).mean() + 0 * x[:, :1]]"),
    ("momentum=1.0 - bn_momentum, epsilon=1e-5", "momentum=1.0 - bn_momentum, epsilon=1e-3"),
    ("momentum=1.0 - bn_momentum", "momentum=bn_momentum"),
]


class TestSpatialAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 3, 1, 1), (3, 1, 6, 2)])
def test_deployed_maxima_equal_the_trained_ones(shape):
    """CBAM has two forms of each maximum: one fast in training, one fast when deployed."""
    x = paddle.randn(shape)
    expected = x.numpy()
    for form in (
        max_over_channels(x),
        max_over_channels_deployed(x),
    ):
        assert np.array_equal(form.numpy(), expected.max(1, keepdims=True))
    for form in (max_over_pixels(x), max_over_pixels_deployed(x)):
        assert np.array_equal(form.numpy(), expected.max((2, 3), keepdims=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_maximum_is_exact(dtype):
    x = paddle.randn([2, 6, 3, 4]).astype(dtype)
    x.stop_gradient = False
    y = max_over_channels(x)
    assert y.dtype == x.dtype
    values = x.astype("float32").numpy()
    assert np.array_equal(y.astype("float32").numpy(), values.max(1, keepdims=True))
    y.astype("float32").sum().backward()
    expected = values == values.max(1, keepdims=True)
    assert np.array_equal(x.grad.astype("float32").numpy(), expected.astype("float32"))


@pytest.mark.parametrize("momentum", [0.01, 0.1])
def test_running_statistics(momentum):
    """The normalisation moves by 0.01 a step as in the authors' code, or by timm's 0.1."""
    layer = SpatialAttention(4, bn_momentum=momentum)
    x = paddle.randn([2, 4, 6, 6])
    layer.train()
    logits = layer.conv(layer.pool(x)).numpy()
    layer(x)
    np.testing.assert_allclose(layer.bn._mean.numpy(), [momentum * logits.mean()], rtol=1e-4)
    assert abs(float(layer.bn._variance[0]) - 1) < 2 * momentum * max(1, logits.var())
    assert pa.CBAM(16, bn_momentum=momentum).spatial_gate.bn._momentum == 1.0 - momentum
