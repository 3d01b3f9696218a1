"""DoubleAttention: reference, cases, mutants."""

import numpy as np
from layer_tester import shared_tests

from ._case import Case
from ._numpy import conv, flat, softmax


def double_attention(x, p, training=False):
    """arXiv 1810.11579, equations 3 to 6."""
    features = flat(conv(x, p, "conv_a"))
    gather, distribute = softmax(flat(conv(x, p, "conv_b")), 2), softmax(flat(conv(x, p, "conv_v")), 1)
    z = np.einsum("nml,nkl,nkj->nmj", features, gather, distribute)
    return x + conv(z.reshape(len(x), -1, *x.shape[2:]), p, "conv_z")


CASES = [
    Case(
        "DoubleAttention",
        double_attention,
        maps={"gather": "n 2 h w", "distribute": "n 2 h w"},
        start="identity",
        dead=("conv_b.bias",),
    ),
    Case(
        "DoubleAttention",
        double_attention,
        {"c_m": 3, "c_n": 4},
        (2, 5, 4, 3),
        dead=("conv_b.bias",),
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("F.softmax(widen(gather).flatten(2), axis=2)", "F.softmax(widen(gather).flatten(2), axis=1)"),
    ("F.softmax(widen(distribute).flatten(2), axis=1)", "F.softmax(widen(distribute).flatten(2), axis=2)"),
    ("return x + y if self.residual", "return y if self.residual"),
]


class TestDoubleAttention(shared_tests(CASES)):
    """The tests that every mechanism has."""
