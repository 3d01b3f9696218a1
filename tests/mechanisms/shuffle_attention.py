"""ShuffleAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import pool, sigmoid


def shuffle(x, p, training=False, groups=1, scale=1.0):
    """arXiv 2102.00240, equations 1 to 3 and the channel shuffle."""
    c = x.shape[1]
    half = c // (2 * groups)
    parts = []
    for g in range(groups):
        first = x[:, 2 * g * half : (2 * g + 1) * half]
        second = x[:, (2 * g + 1) * half : (2 * g + 2) * half]
        gate = sigmoid(p["cweight"] * pool(first) + p["cbias"])
        normal = (second - pool(second)) / np.sqrt(second.var((2, 3), keepdims=True) + 1e-5)
        normal = normal * p["gn.weight"].reshape(-1, 1, 1) + p["gn.bias"].reshape(-1, 1, 1)
        parts += [scale * gate * first, scale * sigmoid(p["sweight"] * normal + p["sbias"]) * second]
    y = np.concatenate(parts, axis=1)
    order = [i + j * c // 2 for i in range(c // 2) for j in range(2)]
    return y[:, order]


CASES = [
    Case(
        "ShuffleAttention",
        partial(shuffle, groups=2),
        {"groups": 2},
        maps={"channel": "n 4 1 1", "spatial": "n 4 h w"},
    ),
    Case("ShuffleAttention", partial(shuffle, groups=1), {"groups": 1}, (2, 6, 3, 4)),
]


BAD_ARGUMENTS = [
    (lambda: pa.ShuffleAttention(12, groups=4), "each of groups=4 groups of channels=12 is split in two"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "reshape([-1, 2, self.channels // 2, height, width])",
        "reshape([-1, self.channels // 2, 2, height, width])",
    ),
    ("self.cweight * F.adaptive", "self.sweight * F.adaptive"),
    ("first, second = x[:, :half], x[:, half:]", "second, first = x[:, :half], x[:, half:]"),
]


class TestShuffleAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_shuffle_attention_starts_as_the_shuffle():
    layer = pa.ShuffleAttention(8, groups=2, identity_init=True)
    x = np.random.RandomState(0).standard_normal((1, 8, 3, 3)).astype("float32")
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), x[:, order], rtol=1e-6)
