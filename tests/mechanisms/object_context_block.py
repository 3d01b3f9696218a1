"""ObjectContextBlock."""

import numpy as np
import paddle
from layer_tester import parameters_of, relative, shared_tests

import paddle_attention as pa

from ._case import randomise
from ._numpy import attend, conv, conv_abn, flat, max_pool, resize


def object_context(x, p, training=False, prefix="", scale=1, partition=1, abs_gamma=False):
    """arXiv 1809.00916, equations 1 and 2."""
    small = max_pool(x, scale)
    key = conv_abn(small, p, f"{prefix}f_key", training, abs_gamma)
    value = conv(small, p, f"{prefix}f_value")
    context = np.zeros_like(value)
    h, w = value.shape[2:]

    def bounds(n):
        step = n // partition
        return [(i * step, n if i == partition - 1 else (i + 1) * step) for i in range(partition)]

    for a, b in bounds(h):
        for c, d in bounds(w):
            k, v = key[:, :, a:b, c:d], value[:, :, a:b, c:d]
            context[:, :, a:b, c:d] = attend(flat(k), flat(k), flat(v), key.shape[1] ** -0.5).reshape(v.shape)
    context = conv(context, p, f"{prefix}W")
    return resize(context, *x.shape[2:], align_corners=True) if scale > 1 else context


BAD_ARGUMENTS = [
    (
        lambda: pa.ObjectContextBlock(8, scale=2, partition=2)(paddle.zeros([1, 8, 3, 9])),
        "need a map of at least 4 x 4, but got 3 x 9",
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("_TWICE = 1.0 - (1.0 - 0.1) ** 2", "_TWICE = 0.1"),
    ("self.pool(x)\n        key, value", "x\n        key, value"),
    ("self.W = conv(value_channels, out_channels, zero=True)", "self.W = conv(value_channels, out_channels)"),
]


class TestObjectContextBlock(shared_tests([], BAD_ARGUMENTS)):
    """Bad arguments."""


def test_object_context_block():
    layer = randomise(pa.ObjectContextBlock(6, 3, 5, 7, scale=2).to(dtype="float64"))
    layer.eval()
    x = np.random.RandomState(1).standard_normal((2, 6, 7, 5))
    expected = object_context(x, parameters_of(layer), scale=2)
    assert relative(layer(paddle.to_tensor(x)).numpy(), expected) < 1e-6
    fresh = pa.ObjectContextBlock(6)
    assert not fresh(paddle.randn([1, 6, 4, 4])).numpy().any()  # the context starts from 0


def test_shared_transform_moves_its_statistics_twice():
    """As far as PyTorch's code, which applies it as key and as query."""
    layer = pa.ObjectContextBlock(4)
    layer.train()
    x = paddle.randn([2, 4, 5, 5])
    mean = layer.f_key[0](x).mean(axis=[0, 2, 3]).numpy()
    layer(x)
    np.testing.assert_allclose(layer.f_key[1].bn._mean.numpy(), (1 - 0.9**2) * mean, rtol=1e-4, atol=1e-7)
