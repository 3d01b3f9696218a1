"""SqueezeAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import EVERY, RESIZED, Case
from ._numpy import batch_norm, conv, relu, resize, sigmoid


def squeeze_attention(x, p, training=False, main=False, activation=sigmoid, size=2):
    """arXiv 1909.03402, section 3.2."""
    n, c, h, w = x.shape
    rows, columns = -(-h // size), -(-w // size)
    small = np.zeros((n, c, rows, columns))
    for i in range(rows):
        for j in range(columns):
            small[:, :, i, j] = x[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size].mean((2, 3))

    def twice(v, name):
        v = relu(batch_norm(conv(v, p, f"{name}.0", padding=1), p, f"{name}.1", training))
        return batch_norm(conv(v, p, f"{name}.3", padding=1), p, f"{name}.4", training)

    attention = resize(activation(twice(small, "conv_attn")), h, w, align_corners=False)
    return attention * (relu(twice(x, "conv_main")) if main else x) + attention


CASES = [
    Case(
        "SqueezeAttention",
        squeeze_attention,
        {},
        (2, 4, 6, 7),
        applied=lambda x, m: x * m + m,
        maps=EVERY,
        **RESIZED,
    ),
    Case(
        "SqueezeAttention",
        partial(squeeze_attention, main=True, activation=relu, size=3),
        {"main_branch": True, "activation": "relu", "pool_size": 3},
        (2, 4, 7, 5),
        **RESIZED,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.SqueezeAttention(8, 16), "needs main_branch=True"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("return attention * main + attention", "return attention * main + main"),
    ("align_corners=False)", "align_corners=True)"),
    ("ceil_mode=True, exclusive=True", "ceil_mode=False"),
]


class TestSqueezeAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
