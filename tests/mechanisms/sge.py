"""SGE: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import pool, sigmoid


def sge(x, p, training=False, groups=1, gate=sigmoid):
    """arXiv 1905.09646, equations 2 to 6, with the unbiased deviation."""
    n, c, h, w = x.shape
    y = np.zeros_like(x)
    for g in range(groups):
        part = slice(g * c // groups, (g + 1) * c // groups)
        similarity = (x[:, part] * pool(x[:, part])).sum(1).reshape(n, -1)
        centred = similarity - similarity.mean(1, keepdims=True)
        deviation = similarity.std(1, ddof=1, keepdims=True) if h * w > 1 else np.zeros((n, 1))
        logits = centred / (deviation + 1e-5) * p["weight"][0, g, 0, 0] + p["bias"][0, g, 0, 0]
        y[:, part] = x[:, part] * gate(logits).reshape(n, 1, h, w)
    return y


CASES = [
    Case(
        "SGE",
        partial(sge, groups=2),
        {"groups": 2},
        applied=lambda x, m: x * m.repeat(4, axis=1),
        maps="n 2 h w",
        start="gate",
    ),
    Case("SGE", partial(sge, groups=6), {"groups": 6}, (2, 6, 3, 4)),
]


BAD_ARGUMENTS = [
    (lambda: pa.SGE(10, groups=4), "channels=10 is not divisible by groups=4; try groups=5"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (", unbiased(wide), 1e-30", ", 1.0, 1e-30"),
    ("(deviation + 1e-5)", "paddle.sqrt(deviation * deviation + 1e-5)"),
    ("centred = similarity - self.avg_pool(similarity)", "centred = similarity"),
]


class TestSGE(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
