"""SKConv: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import Case
from ._numpy import batch_norm, conv, pool, relu, softmax


def sk(x, p, training=False, dilations=(1, 1), groups=(1, 1), stride=1, split=False):
    """arXiv 1903.06586, equations 1 to 6."""
    inputs = np.split(x, len(groups), axis=1) if split else [x] * len(groups)
    maps = []
    for i, (v, d, g) in enumerate(zip(inputs, dilations, groups, strict=True)):
        y = conv(v, p, f"branches.{i}.conv", stride, d, d, g)
        maps.append(relu(batch_norm(y, p, f"branches.{i}.bn", training)))
    z = relu(batch_norm(conv(pool(sum(maps)), p, "fc1.conv"), p, "fc1.bn", training))
    logits = conv(z, p, "fc2").reshape(len(x), len(maps), -1, 1, 1)
    weights = softmax(logits, axis=1)
    return sum(weights[:, i] * y for i, y in enumerate(maps))


CASES = [
    Case(
        "SKConv",
        partial(sk, dilations=(1, 2), groups=(1, 4)),
        {"dilations": [1, 2], "groups": [1, 4], "reduction": 2},
        (3, 8, 5, 7),
        weights_of=1,
        maps="n 2 8 1 1",
    ),
    Case(
        "SKConv",
        partial(sk, dilations=(1, 2, 3), groups=(2, 2, 2), stride=2),
        {"M": 3, "dilations": [1, 2, 3], "groups": 2, "stride": 2, "out_channels": 6, "min_hidden": 3},
        (3, 4, 6, 5),
    ),
    Case(
        "SKConv",
        partial(sk, split=True),
        {"groups": 1, "split_input": True, "min_hidden": 5},
        (3, 6, 4, 4),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.SKConv(8, M=1), "M must be at least 2 branches"),
    (lambda: pa.SKConv(8), r"groups=\[1, 32\] must divide channels=8"),
    (lambda: pa.SKConv(8, M=3, dilations=[1, 2]), r"dilations=\[1, 2\] must have one value for each of M=3"),
    (lambda: pa.SKConv(9, groups=1, split_input=True), "divides channels=9 among M=2"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("F.softmax(logits, axis=1)", "F.softmax(logits, axis=2)"),
    ("pooled = pooled + self.avg_pool(other)", "pooled = pooled"),
    ("weighted_sum(maps, self._select(maps))", "weighted_sum(maps, self._select(maps) ** 2)"),
]


class TestSKConv(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_sk_bottleneck():
    layer = pa.SKBottleneck(8, 4, stride=2, groups=1)
    assert layer(paddle.randn([2, 8, 6, 5])).shape == [2, 16, 3, 3]
    assert pa.SKBottleneck(16, 4, groups=1).downsample is None
    maps = layer.attention_maps(paddle.randn([2, 8, 6, 5]))
    assert maps.shape == [2, 2, 4, 1, 1]
    np.testing.assert_allclose(maps.sum(axis=1).numpy(), 1, rtol=1e-6)
