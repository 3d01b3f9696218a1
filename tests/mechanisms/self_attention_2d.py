"""SelfAttention2D: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import KEY_BIAS, Case
from ._numpy import conv, flat, softmax


def self_attention(x, p, training=False, heads=1, relative=None):
    """arXiv 1706.03762, equation 1, with the relative positions of arXiv 1904.09925."""
    n, c, h, w = x.shape
    d = c // heads
    query, key, value = (flat(conv(x, p, f"{name}_conv")) for name in ("query", "key", "value"))
    y = np.zeros((n, c, h * w))
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        scores = np.einsum("ncl,ncm->nlm", query[:, part], key[:, part])
        if relative:
            for i, (a, b) in enumerate(np.ndindex(h, w)):
                for j, (e, f) in enumerate(np.ndindex(h, w)):
                    for offset, size, name in ((e - a, relative[0], "rel_h"), (f - b, relative[1], "rel_w")):
                        if abs(offset) < size:
                            scores[:, i, j] += query[:, part, i] @ p[name][:, offset + size - 1]
        y[:, part] = np.einsum("ncm,nlm->ncl", value[:, part], softmax(scores / d**0.5))
    return x + conv(y.reshape(x.shape), p, "out_conv")


CASES = [
    Case(
        "SelfAttention2D",
        partial(self_attention, heads=2),
        {"num_heads": 2},
        weights_of=3,
        maps="n 2 l l",
        start="identity",
        dead=KEY_BIAS,
    ),
    Case(
        "SelfAttention2D",
        partial(self_attention, heads=1, relative=(3, 4)),
        {"num_heads": 1, "relative_size": [3, 4]},
        (2, 4, 4, 5),
        maps="n 1 l l",
        dead=KEY_BIAS,
    ),
]


BAD_ARGUMENTS = [
    (
        lambda: pa.SelfAttention2D(8, relative_size=(7, 0)),
        "relative_size must be a positive integer, but got 0",
    ),
    (lambda: pa.SelfAttention2D(10), "channels=10 is not divisible by num_heads=4; try num_heads=5"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("return x + self.out_conv", "return self.out_conv"),
    (
        "skew(paddle.matmul(flat, widen(self.rel_w)), width)",
        "skew(paddle.matmul(flat, widen(self.rel_h)), width)",
    ),
    ("scores = scores + (rows + columns)", "scores = scores + (rows - columns)"),
]


class TestSelfAttention2D(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
