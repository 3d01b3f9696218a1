"""NonLocal2D: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
import pytest
from layer_tester import parameters_of, relative, shared_tests

import paddle_attention as pa

from ._case import AMONG, TWO, Case, randomise
from ._numpy import batch_norm, conv, flat, max_pool, relu, softmax


def non_local(x, p, training=False, mode="embedded_gaussian", sub_sample=True, bn=True, pool=max_pool):
    """arXiv 1711.07971, equations 1 to 6."""
    small = pool if sub_sample else lambda v, size: v
    value = flat(small(conv(x, p, "g"), 2))
    if mode == "gaussian":
        query, key = flat(x), flat(small(x, 2))
    else:
        query, key = flat(conv(x, p, "theta")), flat(small(conv(x, p, "phi"), 2))
    if mode == "concatenation":
        w = p["concat_project.weight"].reshape(-1)
        a = np.einsum("c,ncl->nl", w[: len(w) // 2], query)
        b = np.einsum("c,ncm->nm", w[len(w) // 2 :], key)
        weights = relu(a[:, :, None] + b[:, None, :]) / key.shape[2]
    else:
        weights = np.einsum("ncl,ncm->nlm", query, key)
        weights = weights / key.shape[2] if mode == "dot_product" else softmax(weights)
    y = np.einsum("ncm,nlm->ncl", value, weights).reshape(len(x), -1, *x.shape[2:])
    y = conv(y, p, "W")
    return x + (batch_norm(y, p, "W_bn", training) if bn else y)


CASES = [
    *(
        Case(
            "NonLocal2D",
            partial(non_local, mode=mode, sub_sample=sub_sample, bn=bn),
            {"mode": mode, "sub_sample": sub_sample, "bn": bn},
            (3, 6, 6, 5),
            sizes=TWO if sub_sample else None,
            maps="n l 6" if sub_sample else AMONG,
            start="identity",
            dead=("phi.bias",) if mode == "embedded_gaussian" else (),
        )
        for mode, sub_sample, bn in (
            ("embedded_gaussian", True, True),
            ("embedded_gaussian", False, False),
            ("gaussian", True, False),
            ("gaussian", False, True),
            ("dot_product", True, True),
            ("dot_product", False, False),
            ("concatenation", True, False),
            ("concatenation", False, True),
        )
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.NonLocal2D(8, mode="softmax"), "mode must be one of .* but got 'softmax'"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "paddle.matmul(weight[:, :half], query), paddle.matmul(weight[:, half:], key)",
        "paddle.matmul(weight[:, half:], query), paddle.matmul(weight[:, :half], key)",
    ),
    ("return x + (y if", "return (y if"),
    ("value = self._sub_sample(self.g(x))", "value = self._sub_sample(paddle.nn.functional.relu(self.g(x)))"),
    (
        "_chunked_attention.py",
        "context = matmul_transposed(value, key / positions)",
        "context = matmul_transposed(value, key)",
    ),
    ("_chunked_attention.py", "value = value / positions", "value = value"),
    ("_chunked_attention.py", "argsort(b, axis=1, descending=True)", "argsort(b, axis=1, descending=False)"),
]


class TestNonLocal2D(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("sub_sample", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_non_local_of_sequences_and_videos(mode, sub_sample, training):
    def halve(v, size):  # positions along H, or along H and W of every frame
        n, c, length, rest = v.shape
        if rest == 1:
            return v[:, :, : length // 2 * 2].reshape(n, c, length // 2, 2, 1).max(3)
        v = v.reshape(n, c, 3, 4, 6).reshape(n, c, 3, 2, 2, 3, 2).max((4, 6))
        return v.reshape(n, c, 9, 2)

    for layer, shape, flattened in (
        (pa.NonLocal1D(4, mode=mode, sub_sample=sub_sample), (2, 4, 9), (2, 4, 9, 1)),
        (pa.NonLocal3D(4, mode=mode, sub_sample=sub_sample), (2, 4, 3, 4, 6), (2, 4, 12, 6)),
    ):
        layer = randomise(layer.to(dtype="float64"))
        layer.train() if training else layer.eval()
        x = np.random.RandomState(1).standard_normal(shape)
        p = {
            k: v.reshape(*v.shape[:2], 1, 1) if k.endswith("weight") and v.ndim > 2 else v
            for k, v in parameters_of(layer).items()
        }
        expected = non_local(x.reshape(flattened), p, training, mode, sub_sample, pool=halve)
        got = layer(paddle.to_tensor(x)).numpy()
        assert relative(got, expected.reshape(shape)) < 1e-9
    with pytest.raises(
        ValueError, match=r"NonLocal3D: the input must be a 5-D feature map \[N, C, D, H, W\]"
    ):
        layer(paddle.zeros([2, 4, 9], dtype="float64"))
