"""Attention without parameters.

L. Yang, R.-Y. Zhang, L. Li, X. Xie, "SimAM: A Simple, Parameter-Free Attention
Module for Convolutional Neural Networks", ICML 2021; authors' code:
ZjjConan/SimAM.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_positive, check_positive_int
from ._ops import affine, full_precision, unbiased, widen

__all__ = ["SimAM"]


@register_attention(
    "SimAM",
    paper="SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
    arxiv=None,
    year=2021,
    domain="mixed",
    computed_by="distance to the channel's mean",
    applied_by="scale",
    takes_tokens=True,
)
class SimAM(GateLayer):
    r"""Rescale every element by how far it lies from its channel's mean.

    .. math::
        y = x\, \sigma\Bigl(\frac{(x - \mu)^2}{4 (v + \lambda)} + \frac12\Bigr), \qquad
        v = \frac{\sum (x - \mu)^2}{HW - 1}

    (equations 5 and 6 of the paper; one over the energy is computed, as in the authors' code.)
    It has no parameters; on a single pixel the variance v is taken as 0.

    Args:
        channels (int): channels of the input.
        e_lambda (float): lambda above.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int, e_lambda: float = 1e-4) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_positive(e_lambda=e_lambda)
        self.channels, self.e_lambda = channels, e_lambda
        self.avg_pool = nn.AdaptiveAvgPool2D(1)

    def gate(self, x: Tensor) -> Tensor:
        """The weights, ``[N, channels, H, W]``, each in [0.62, 1]."""
        with full_precision():
            wide = widen(x)
            centred = wide - self.avg_pool(wide)
            square = centred * centred
            # Times the inverse of a small tensor: a division of the map would leave the deployed network's layout.
            spread = affine(self.avg_pool(square), 4.0 * unbiased(wide), 4.0 * self.e_lambda)
            return F.sigmoid(square * paddle.reciprocal(spread) + 0.5).astype(x.dtype)
