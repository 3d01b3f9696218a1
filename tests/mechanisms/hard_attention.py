"""HardAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
import pytest
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, PIXELS, Case, scaled
from ._numpy import conv, pool


def hard(x, p, training=False, k=0.5, channel=False):
    """The k largest scores, position by position."""
    scores = (conv(pool(x), p, "score") if channel else conv(x, p, "score")).reshape(len(x), -1)
    number = k if isinstance(k, int) else int(np.ceil(k * scores.shape[1]))
    mask = np.zeros_like(scores)
    for row, best in zip(mask, np.argsort(-scores, axis=1)[:, :number], strict=True):
        row[best] = 1.0
    return x * mask.reshape((len(x), -1, 1, 1) if channel else (len(x), 1, *x.shape[2:]))


CASES = [
    Case(
        "HardAttention",
        hard,
        {},
        applied=scaled,
        maps=PIXELS,
        dead=("score.*",),
        differentiable=False,
    ),
    Case(
        "HardAttention",
        partial(hard, k=3, channel=True),
        {"k": 3, "domain": "channel", "estimator": "score_function"},
        maps=CHANNELS,
        dead=("score.*",),
        differentiable=False,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.HardAttention(8, k=1.5), r"within \(0, 1\], but got 1.5"),
    (lambda: pa.HardAttention(8, k=9, domain="channel"), "k=9 is more than channels=8"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("rank = paddle.argsort(order, axis=1)", "rank = order"),
    ("mask = mask + (soft - soft.detach())", "mask = mask + (scores - scores.detach())"),
    ("math.ceil(self.k * candidates - 1e-6)", "math.floor(self.k * candidates)"),
    (
        "paddle.flip(paddle.logcumsumexp(paddle.flip(drawn, axis=[1]), axis=1), axis=[1])",
        "paddle.logcumsumexp(drawn, axis=1)",
    ),
    ("- paddle.log(-paddle.log(noise))", "+ paddle.log(-paddle.log(noise))"),
    ("return -((reward", "return ((reward"),
]


class TestHardAttention(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_straight_through_gradient():
    """Forward the choice, backward as if the mask were the sigmoid of the scores."""
    layer = pa.HardAttention(3, k=0.5)
    x = paddle.randn([2, 3, 4, 5])
    layer.train()
    y = layer(x)
    kept = (y.numpy() != 0).any(1)
    assert (kept.reshape(2, -1).sum(1) == 10).all()
    weight = paddle.randn(y.shape)
    (y * weight).sum().backward()
    got = layer.score.weight.grad.numpy()
    layer.clear_gradients()
    soft = paddle.nn.functional.sigmoid(layer.score(x))
    (x * soft * weight).sum().backward()
    np.testing.assert_allclose(got, layer.score.weight.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "candidates", "kept"),
    [(0.07, 100, 7), (0.28, 50, 14), (0.5, 9, 5), (0.01, 9, 1), (1.0, 9, 9), (4, 9, 4), (20, 9, 9)],
)
def test_how_many_are_kept(k, candidates, kept):
    layer = pa.HardAttention(2, k=k)
    mask = layer.attention_maps(paddle.randn([3, 2, 1, candidates]))
    assert (mask.numpy().reshape(3, -1).sum(1) == kept).all()


def test_score_function_gradient_by_its_expectation():
    """The mean of the estimate over draws is the gradient of the expected reward, by enumeration."""
    paddle.seed(3)
    layer = pa.HardAttention(1, k=2, estimator="score_function")
    layer.score.weight.set_value(paddle.ones([1, 1, 1, 1]))
    layer.score.bias.set_value(paddle.zeros([1]))
    layer.train()
    scores = np.array([0.3, -0.5, 1.0, 0.1])
    values = np.array([1.0, -2.0, 0.5, 3.0])

    def reward(mask):
        return (mask * values).sum(-1) ** 2

    def expected(scores):
        """Over all ordered draws of two."""
        total, p = 0.0, np.exp(scores) / np.exp(scores).sum()
        for i in range(4):
            for j in range(4):
                if i != j:
                    mask = np.zeros(4)
                    mask[[i, j]] = 1
                    total += p[i] * p[j] / (1 - p[i]) * reward(mask)
        return total

    step = 1e-5
    truth = [(expected(scores + step * e) - expected(scores - step * e)) / (2 * step) for e in np.eye(4)]
    draws = 40000
    x = paddle.to_tensor(
        np.tile(scores, (draws, 1)).reshape(draws, 1, 1, 4).astype("float32"), stop_gradient=False
    )
    mask = layer.mask(x)
    assert (mask.numpy().sum((1, 2, 3)) == 2).all()
    got = paddle.to_tensor(reward(mask.numpy().reshape(draws, 4)).astype("float32"))
    assert abs(got.numpy().mean() - expected(scores)) < 0.1
    layer.reinforce_loss(got, baseline=got.mean()).backward()
    estimate = -x.grad.numpy().reshape(draws, 4).sum(0)
    assert abs(estimate - truth).max() < 0.15  # about four standard errors; the largest is
    assert abs(np.array(truth)).max() > 1.0
    assert layer.score.weight.grad is not None


def test_reinforce_needs_a_draw():
    with pytest.raises(RuntimeError, match="estimator='straight_through'"):
        pa.HardAttention(2).reinforce_loss(paddle.ones([1]))
    layer = pa.HardAttention(2, estimator="score_function")
    layer(paddle.randn([3, 2, 4, 4]))
    with pytest.raises(ValueError, match=r"reward must be \[N\] = \[3\].* but got shape \[3, 1\]"):
        layer.reinforce_loss(paddle.ones([3, 1]))
