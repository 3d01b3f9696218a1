"""The memory-efficient forms of attention."""

from functools import partial

import numpy as np
import paddle
import pytest
from layer_tester import relative

import paddle_attention as pa
from paddle_attention.layers import _chunked_attention as _attend

from ._case import gradients, randomise

MUTANTS = [
    (
        "_chunked_attention.py",
        "scores = weights * (moved - (moved * weights).sum(axis=-1, keepdim=True))",
        "scores = weights * moved",
    ),
    (
        "_chunked_attention.py",
        "return F.softmax(scores * scale if scale != 1.0 else scores, axis=-1)",
        "return F.softmax(scores, axis=-1)",
    ),
    (
        "_chunked_attention.py",
        "value_gradient = to_value if value_gradient is None else value_gradient + to_value",
        "value_gradient = to_value",
    ),
]

QUERY, KEY, VALUE = ((2, 4, 30), (2, 4, 21), (2, 3, 21))


EFFICIENT = {
    "softmax, in chunks of 7": (
        partial(_attend.softmax_attention, scale=0.7, chunk=7),
        partial(_attend.softmax_attention_naive, scale=0.7),
        (QUERY, KEY, VALUE),
    ),
    "softmax, one by one": (
        partial(_attend.softmax_attention, chunk=1),
        _attend.softmax_attention_naive,
        (QUERY, KEY, VALUE),
    ),
    "dot product": (
        _attend.dot_product_attention,
        _attend.dot_product_attention_naive,
        (QUERY, KEY, VALUE),
    ),
    "concatenation": (
        _attend.concatenation_attention,
        _attend.concatenation_attention_naive,
        ((2, 30), (2, 21), VALUE),
    ),
}


@pytest.mark.parametrize("name", EFFICIENT)
def test_efficient_forms_are_exact(name):
    """The same numbers and gradients as the reference form."""
    efficient, naive, shapes = EFFICIENT[name]
    random = np.random.RandomState(0)
    arrays = [random.standard_normal(shape) for shape in shapes]
    for got, expected in zip(gradients(efficient, *arrays), gradients(naive, *arrays), strict=True):
        assert relative(got, expected) < 1e-12
    single = gradients(efficient, *arrays, dtype="float32")
    for got, expected in zip(single, gradients(naive, *arrays), strict=True):
        assert relative(got, expected) < 2e-6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([[-5.0, -1.0, 0.0]], [[0.5, 0.25, 1.0, 0.75]]),  # for the first, no key counts
        ([[5.0, 6.0, 7.0]], [[-1.0, 2.0, 0.0, 1.0]]),  # for all, every key
        ([[1.0, 1.0, 2.0]], [[-1.0, -1.0, -2.0, -1.0]]),  # ties, and sums of exactly 0
    ],
)
def test_concatenation_at_its_edges(a, b):
    arrays = [np.array(a), np.array(b), np.random.RandomState(0).standard_normal((1, 2, 4))]
    got = gradients(_attend.concatenation_attention, *arrays)
    expected = gradients(_attend.concatenation_attention_naive, *arrays)
    for x, y in zip(got, expected, strict=True):
        assert relative(x, y) < 1e-12 or abs(x - y).max() < 1e-15


def test_concatenation_does_not_cancel():
    """Running sums of float32 inputs are in float64: closer to the truth than the reference form."""
    random = np.random.RandomState(0)
    arrays = [random.standard_normal(s) for s in ((1, 3000), (1, 3000), (1, 4, 3000))]
    truth = gradients(_attend.concatenation_attention_naive, *arrays)[0]
    arrays32 = [a.astype("float32") for a in arrays]
    truth32 = gradients(_attend.concatenation_attention_naive, *(a.astype("float64") for a in arrays32))[0]
    got = gradients(_attend.concatenation_attention, *arrays32, dtype="float32")[0]
    assert relative(got, truth32) < 1e-7
    assert relative(got, truth) < 1e-5


LAYERS = {
    "NonLocal2D": lambda **kw: pa.NonLocal2D(6, sub_sample=False, **kw),
    "NonLocal2D gaussian": lambda **kw: pa.NonLocal2D(6, mode="gaussian", **kw),
    "PAM": lambda **kw: pa.PAM(8, **kw),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_large_maps_are_taken_in_chunks(name, training, monkeypatch):
    """Chosen by the number of attention scores; same output and gradients as keeping them all."""
    monkeypatch.setattr(_attend, "_SCORES", 50)
    monkeypatch.setattr(_attend, "_QUERIES", 16)
    efficient = randomise(LAYERS[name]().to(dtype="float64"))
    naive = LAYERS[name](naive=True).to(dtype="float64")
    naive.set_state_dict(efficient.state_dict())
    results = []
    for layer in (efficient, naive):
        layer.train() if training else layer.eval()
        x = paddle.to_tensor(np.random.RandomState(1).standard_normal((2, efficient.channels, 7, 6)))
        x.stop_gradient = False
        y = layer(x)
        (y**2).sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters() if not p.stop_gradient)])
    largest = max(float(t.abs().max()) for t in results[1])
    for got, expected in zip(*results, strict=True):
        assert float((got - expected).abs().max()) < 1e-12 * largest
    with paddle.no_grad():
        assert relative(efficient(x).numpy(), naive(x).numpy()) < 1e-12


def test_only_some_need_a_gradient(monkeypatch):
    """Frozen embeddings, or an input that is an image: Paddle wants None for their gradients."""
    monkeypatch.setattr(_attend, "_SCORES", 50)
    for wanted in ((0,), (1,), (2,), (0, 2)):
        tensors = [paddle.randn([1, 3, 12]) for _ in range(3)]
        for i in wanted:
            tensors[i].stop_gradient = False
        _attend.softmax_attention(*tensors).square().sum().backward()
        got = [None if t.grad is None else t.grad.numpy() for t in tensors]
        for t in tensors:
            t.clear_gradient()
        _attend.softmax_attention_naive(*tensors).square().sum().backward()
        for g, t in zip(got, tensors, strict=True):
            assert (g is None) == t.stop_gradient
            assert g is None or np.allclose(g, t.grad.numpy(), atol=1e-5)


def test_attention_scores_are_not_kept(monkeypatch):
    """No product as large as all queries by all keys is ever made, forward or backward."""
    largest = []
    matmul = paddle.matmul

    def watch(*args, **kwargs):
        y = matmul(*args, **kwargs)
        largest.append(int(np.prod(y.shape[1:])))
        return y

    monkeypatch.setattr(paddle, "matmul", watch)
    q = paddle.randn([1, 4, 1200])
    q.stop_gradient = False
    _attend.softmax_attention(q, q, q).sum().backward()
    assert max(largest) == 256 * 1200
    largest.clear()
    _attend.dot_product_attention(q, q, q).sum().backward()
    assert max(largest) == 4 * 1200
