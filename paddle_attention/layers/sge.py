"""Spatial Group-wise Enhance.

X. Li, X. Hu, J. Yang, "Spatial Group-wise Enhance: Improving Semantic Feature
Learning in Convolutional Networks", arXiv 1905.09646; authors' code:
implus/PytorchInsight.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_divides
from ._init import constant
from ._ops import affine, full_precision, unbiased, widen

__all__ = ["SGE"]


@register_attention(
    "SGE",
    paper="Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
    arxiv="1905.09646",
    year=2019,
    domain="mixed",
    computed_by="similarity to the group's mean",
    applied_by="scale",
    takes_tokens=True,
)
class SGE(GateLayer):
    r"""Within each group of channels, rescale positions by their similarity to the group's mean.

    .. math::
        c_i = \bar x \cdot x_i, \quad
        \hat c_i = \frac{c_i - \mu_c}{\sigma_c + \epsilon}, \quad
        y_i = x_i\, \sigma(\gamma \hat c_i + \beta)

    (arXiv 1905.09646, equations 1 to 6), for every group. As in the authors' code the
    standard deviation is the unbiased one (N - 1) and epsilon = 1e-5 is added to it, and
    gamma starts from 0, beta from 1. On a single position the unbiased
    deviation does not exist; there :math:`\hat c = 0`.

    Args:
        channels (int): channels of the input.
        groups (int): number of groups; must divide ``channels``.
        identity_init (bool): start as the identity: the gate is doubled and
            beta starts from 0, so every weight starts at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: if ``groups`` does not divide ``channels``, or for an input
            that is not ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int, groups: int = 64, identity_init: bool = False) -> None:
        super().__init__()
        check_divides(channels, groups=groups)
        self.channels = channels
        self.groups = groups
        self.identity_init = identity_init
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.weight = self.create_parameter([1, groups, 1, 1], attr=constant(0.0))
        self.bias = self.create_parameter([1, groups, 1, 1], attr=constant(0.0 if identity_init else 1.0))

    def gate(self, x: Tensor) -> Tensor:
        """The weights of every group's positions, ``[N, groups, H, W]``, in [0, 1] or [0, 2]."""
        with full_precision():
            wide = widen(x)
            # Sums over a group's channels are a grouped 1x1 convolution of ones: no reshape,
            # and the statistics are poolings, so the deployed network keeps its layout.
            ones = paddle.ones([self.groups, self.channels // self.groups, 1, 1], dtype=wide.dtype)
            similarity = F.conv2d(wide * self.avg_pool(wide), ones, groups=self.groups)
            centred = similarity - self.avg_pool(similarity)
            # The root of an exact 0 has no gradient; 1e-15 is nothing beside the 1e-5.
            deviation = paddle.sqrt(affine(self.avg_pool(centred * centred), unbiased(wide), 1e-30))
            # Times a small tensor: a division of the map would leave the deployed network's layout.
            logits = centred * (paddle.reciprocal(deviation + 1e-5) * widen(self.weight)) + widen(self.bias)
            gate = F.sigmoid(logits)
            return (2.0 * gate if self.identity_init else gate).astype(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        ones = paddle.ones([self.channels, 1, 1, 1], dtype=x.dtype)
        return x * F.conv2d(self.gate(x), ones, groups=self.groups)
