"""SpatialTransformer: reference, cases, mutants."""

import subprocess
import sys
from functools import partial

import numpy as np
import paddle
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import conv, relu


def spatial_transformer(x, p, training=False, size=4, align_corners=False):
    """arXiv 1506.02025, equations 1 and 5, pixel by pixel."""
    n, _, h, w = x.shape
    hidden = relu(conv(x, p, "conv", padding=1))
    small = np.zeros((*hidden.shape[:2], size, size))
    for i, j in np.ndindex(size, size):
        rows, columns = (
            slice(i * h // size, -(-(i + 1) * h // size)),
            slice(j * w // size, -(-(j + 1) * w // size)),
        )
        small[:, :, i, j] = hidden[:, :, rows, columns].mean((2, 3))
    theta = conv(relu(conv(small, p, "fc1")), p, "fc2").reshape(n, 2, 3)

    def centre(i, length):
        return (2 * i / max(length - 1, 1) if align_corners else (2 * i + 1) / length) - 1

    def pixel(v, length):
        return (v + 1) / 2 * (length - 1) if align_corners else ((v + 1) * length - 1) / 2

    y = np.zeros_like(x)
    for b, i, j in np.ndindex(n, h, w):
        at = theta[b] @ np.array([centre(j, w), centre(i, h), 1.0])
        column, row = pixel(at[0], w), pixel(at[1], h)
        for r in (int(np.floor(row)), int(np.floor(row)) + 1):
            for c in (int(np.floor(column)), int(np.floor(column)) + 1):
                if 0 <= r < h and 0 <= c < w:
                    y[b, :, i, j] += x[b, :, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return y


CASES = [
    Case(
        "SpatialTransformer",
        partial(spatial_transformer, size=2),
        {"pool_size": 2, "reduction": 1},
        (2, 4, 5, 6),
        gentle=True,
        maps="n h w 2",
    ),
    Case(
        "SpatialTransformer",
        partial(spatial_transformer, align_corners=True),
        {"reduction": 2, "align_corners": True},
        (2, 4, 6, 5),
        gentle=True,
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("across * columns[:, 0] + down * columns[:, 1]", "across * columns[:, 1] + down * columns[:, 0]"),
    ("(2.0 * steps + 1.0) / size - 1.0", "2.0 * steps / size - 1.0"),
    ("grid, align_corners=self.align_corners", "grid, align_corners=not self.align_corners"),
]


class TestSpatialTransformer(shared_tests(CASES)):
    """The tests that every mechanism has."""


def test_transformer_starts_at_the_identical_transformation():
    for align_corners in (False, True):
        layer = pa.SpatialTransformer(4, align_corners=align_corners)
        x = paddle.randn([2, 4, 6, 5])
        np.testing.assert_allclose(layer(x).numpy(), x.numpy(), atol=1e-5)


def test_transformer_learns_after_a_frozen_backbone():
    """In a process of its own: without the cure Paddle ends it."""
    code = (
        "import paddle, paddle_attention as pa\n"
        "layer = pa.SpatialTransformer(4)\n"
        "layer(paddle.randn([2, 4, 6, 5])).sum().backward()\n"
        "print(bool((layer.fc2.bias.grad != 0).any()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr[-500:]
