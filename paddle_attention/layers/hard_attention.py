"""Hard attention: a choice, which has no gradient, and two ways to train it.

V. Mnih, N. Heess, A. Graves, K. Kavukcuoglu, "Recurrent Models of Visual
Attention", arXiv 1406.6247; straight-through gradients: Y. Bengio, N. Leonard,
A. Courville, arXiv 1308.3432; score function: R. J. Williams, "Simple statistical
gradient-following algorithms for connectionist reinforcement learning", 1992.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_choice, check_positive_int
from ._init import conv
from ._ops import full_precision, size_of, unflatten_like, widen

__all__ = ["HardAttention"]


@register_attention(
    "HardAttention",
    paper="Recurrent Models of Visual Attention",
    arxiv="1406.6247",
    year=2014,
    domain="mixed",
    computed_by="conv or FC, top-k",
    applied_by="selection",
)
class HardAttention(AttentionLayer):
    r"""Keep the k positions (or channels) with the largest scores and zero the others.

    .. math::
        y = m \odot x, \qquad m \in \{0, 1\}, \; \sum m = k

    A 1x1 convolution scores positions (``domain='spatial'``); a fully connected layer on the
    averages scores channels (``'channel'``). The choice has no gradient, so

    * ``estimator='straight_through'``: backward as if m were :math:`\sigma(\mathrm{score})`;
    * ``'score_function'`` (REINFORCE): in train mode k are drawn one after the other,
      without putting back, with probabilities :math:`\mathrm{softmax}(\mathrm{score})`, and
      the logarithm of the draw's probability is kept. The scores learn only from
      :meth:`reinforce_loss`, to be added to the training loss:
      :math:`\nabla E[R] = E[(R - b)\, \nabla \log p(m)]`.

    In eval mode both keep the k largest.

    Args:
        channels (int): channels of the input.
        k (int or float): how many to keep; a float in (0, 1] is that part of them, rounded up.
        domain (str): ``'spatial'`` or ``'channel'``.
        estimator (str): ``'straight_through'`` or ``'score_function'``.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(
        self, channels: int, k: float = 0.5, domain: str = "spatial", estimator: str = "straight_through"
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_choice("domain", domain, ("channel", "spatial"))
        check_choice("estimator", estimator, ("score_function", "straight_through"))
        if isinstance(k, float):
            if not 0.0 < k <= 1.0:
                raise ValueError(f"a float k must be within (0, 1], but got {k!r}")
        else:
            check_positive_int(k=k)
            if domain == "channel" and k > channels:
                raise ValueError(f"k={k} is more than channels={channels}")
        self.channels, self.k, self.domain, self.estimator = channels, k, domain, estimator
        self.score = conv(channels, 1 if domain == "spatial" else channels)
        self.log_prob = None

    def scores(self, x: Tensor) -> Tensor:
        """Scores of the candidates, ``[N, H * W]`` or ``[N, channels]``."""
        if self.domain == "channel":
            return self.score(F.adaptive_avg_pool2d(x, 1)).flatten(1)
        return self.score(x).flatten(1)

    def _number(self, scores: Tensor) -> Tensor:
        """How many to keep: k, or as many as there are."""
        candidates = size_of(scores, (1,))[0]
        if isinstance(self.k, int):
            return self.k  # a rank is below it also where there are fewer
        if isinstance(candidates, int):  # less a little: 0.07 * 100 is above 7 in floating point
            return math.ceil(self.k * candidates - 1e-6)
        return paddle.ceil(candidates.astype("float64") * self.k - 1e-6).astype("int64")

    @staticmethod
    def _largest(scores: Tensor, number: Any) -> tuple[Tensor, ...]:
        """1 for the ``number`` largest of every row, 0 for the others, and the order of the row."""
        order = paddle.argsort(scores, axis=1, descending=True)
        rank = paddle.argsort(order, axis=1)
        return (rank < number).astype(scores.dtype), order

    def _draw(self, scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """A draw of ``number`` without putting back, and the logarithm of its probability, ``[N]``."""
        # The largest scores after Gumbel noise are such a draw, in that order.
        noise = paddle.uniform(scores.shape, dtype=scores.dtype, min=1e-10, max=1.0)
        mask, order = self._largest(scores.detach() - paddle.log(-paddle.log(noise)), number)
        drawn = paddle.take_along_axis(scores, order, axis=1)
        # Each was drawn from those not yet drawn: a running log-sum-exp from the end.
        remaining = paddle.flip(paddle.logcumsumexp(paddle.flip(drawn, axis=[1]), axis=1), axis=[1])
        return mask, (drawn - remaining)[:, :number].sum(axis=1)

    def mask(self, x: Tensor) -> Tensor:
        """The choice, ``[N, 1, H, W]`` or ``[N, channels, 1, 1]``, of zeros and ones."""
        scores = self.scores(x)
        with full_precision():
            scores = widen(scores)
            number = self._number(scores)
            if self.estimator == "score_function" and self.training:
                mask, log_prob = self._draw(scores, number)
                self.log_prob = log_prob if paddle.in_dynamic_mode() else None
            else:
                mask, _ = self._largest(scores.detach(), number)
                if self.estimator == "straight_through" and self.training:
                    soft = F.sigmoid(scores)
                    mask = mask + (soft - soft.detach())
        return self._on_the_map(mask.astype(x.dtype), x)

    def _on_the_map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The choice of every row in a shape that multiplies ``x``."""
        return mask.unsqueeze([2, 3]) if self.domain == "channel" else unflatten_like(mask.unsqueeze(1), x)

    def reinforce_loss(self, reward: Tensor, baseline: float | Tensor = 0.0) -> Tensor:
        """Loss whose gradient is minus the score-function estimate of the reward's.

        Args:
            reward (Tensor): ``[N]``, such as minus the loss of each image; its gradient is not used.
            baseline (float or Tensor): subtracted from the reward, to lower the variance.

        Raises:
            RuntimeError: if no forward pass in train mode with ``estimator='score_function'`` came before.
            ValueError: if the reward is not ``[N]``.
        """
        if self.log_prob is None:
            raise RuntimeError(
                "HardAttention: reinforce_loss needs a forward pass in train mode, not in a static graph, with "
                f"estimator='score_function' before it; here training={self.training}, "
                f"estimator={self.estimator!r}"
            )
        if list(reward.shape) != list(self.log_prob.shape):
            raise self.error(
                f"the reward must be [N] = {list(self.log_prob.shape)}, one for each image of the "
                f"last forward pass, but got shape {list(reward.shape)}"
            )
        return -((reward - baseline).detach() * self.log_prob).mean()

    def attention_maps(self, x: Tensor) -> Tensor:
        """The choice of eval mode, ``[N, 1, H, W]`` or ``[N, channels, 1, 1]``, of zeros and ones."""
        scores = self.scores(x)
        mask, _ = self._largest(scores.detach(), self._number(scores))
        return self._on_the_map(mask, x)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return x * self.mask(x)
