"""Expectation-maximisation attention.

X. Li, Z. Zhong, J. Wu, Y. Yang, Z. Lin, H. Liu, "Expectation-Maximization
Attention Networks for Semantic Segmentation", arXiv 1907.13426; authors' code:
XiaLiPKU/EMANet.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_fraction, check_positive_int
from ._chunked_attention import average
from ._init import batch_norm, fan_in_uniform
from ._ops import full_precision, unflatten_like, widen

__all__ = ["EMAU"]


@register_attention(
    "EMAU",
    paper="Expectation-Maximization Attention Networks for Semantic Segmentation",
    arxiv="1907.13426",
    year=2019,
    domain="spatial",
    computed_by="expectation-maximisation",
    applied_by="matmul, add",
    takes_tokens=True,
)
class EMAU(AttentionLayer):
    r"""Rebuild the features from a few bases found by expectation-maximisation.

    ``stage_num`` times

    .. math::
        z_{nk} = \mathrm{softmax}_k(x_n \cdot \mu_k), \qquad
        \mu_k = \frac{\sum_n z_{nk} x_n}{\sum_n z_{nk}}

    (arXiv 1907.13426, equations 7 and 8), then :math:`\tilde x = \mu z^T`
    (equation 9). As in the authors' code: the bases are divided by their length after
    every step, 1e-6 is added to both denominators, the last bases are paired with
    the responsibilities z of before their update, and all of this is without
    gradient: so ``conv1`` gets none, and the input gets it over the shortcut only.

    In train mode every forward pass moves the initial bases towards the batch's:
    :math:`\mu \leftarrow 0.9 \mu + 0.1 \bar\mu` (equation 13; the authors do it in
    their training script). With several processes the mean is over all.

    Args:
        channels (int): channels of the input (``c``).
        k (int): number of bases.
        stage_num (int): number of iterations.
        momentum (float): weight of the old bases.
        bn_momentum (float): weight of the new value in the running statistics.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "bases"}

    def __init__(
        self, channels: int, k: int = 64, stage_num: int = 3, momentum: float = 0.9, bn_momentum: float = 3e-4
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels, k=k, stage_num=stage_num)
        check_fraction(momentum=momentum, bn_momentum=bn_momentum)
        self.channels, self.k, self.stage_num, self.momentum = channels, k, stage_num, momentum
        start = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, math.sqrt(2.0 / channels)))
        bias = paddle.ParamAttr(initializer=fan_in_uniform(channels))
        self.conv1 = nn.Conv2D(channels, channels, 1, weight_attr=start, bias_attr=bias)
        again = nn.Conv2D(channels, channels, 1, weight_attr=start, bias_attr=False)
        self.conv2 = nn.Sequential(again, batch_norm(channels, bn_momentum))
        mu = paddle.normal(0.0, math.sqrt(2.0 / k), [1, channels, k])
        self.register_buffer("mu", self._unit_length(mu))

    @staticmethod
    def _unit_length(mu: Tensor) -> Tensor:
        return mu / (1e-6 + paddle.sqrt((mu * mu).sum(axis=1, keepdim=True)))

    @paddle.no_grad()
    def _iterate(self, x: Tensor) -> tuple[Tensor, ...]:
        """Bases ``[N, C, k]`` and the responsibilities ``[N, positions, k]`` of before their last update."""
        mu, z = self.mu.astype(x.dtype), None
        for _ in range(self.stage_num):
            z = F.softmax(paddle.matmul(x, mu, transpose_x=True), axis=2)
            # Not x @ (z / sum): Paddle Inference would divide in place the z that is needed below.
            mu = paddle.matmul(x, z) / (1e-6 + z.sum(axis=1, keepdim=True))
            mu = self._unit_length(mu)
        return mu, z

    @paddle.no_grad()
    def _move_bases(self, mu: Tensor) -> None:
        mean = mu.mean(axis=0, keepdim=True)
        if paddle.distributed.get_world_size() > 1 and paddle.distributed.is_initialized():
            paddle.distributed.all_reduce(mean)
            mean = mean / paddle.distributed.get_world_size()
        mean = mean.astype(self.mu.dtype)
        paddle.assign(self.momentum * self.mu + (1.0 - self.momentum) * mean, self.mu)

    def attention_maps(self, x: Tensor) -> Tensor:
        """Responsibilities of the bases for the positions, ``[N, H * W, k]``; they sum to 1 over k."""
        features = self.conv1(x)
        with full_precision():
            return self._iterate(widen(features).flatten(2))[1]

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        y = self.conv1(x)
        with full_precision():
            mu, z = self._iterate(widen(y).flatten(2).detach())
            rebuilt = average(mu, z).astype(x.dtype)
        if self.training:
            self._move_bases(mu)
        y = self.conv2(F.relu(unflatten_like(rebuilt, x)))
        return F.relu(y + x)
