"""The spatial gate of CBAM.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon, "CBAM: Convolutional Block Attention
Module", arXiv 1807.06521; authors' code: Jongchan/attention-module.

Its maximum is written twice, as that of the channel gate; see :mod:`.channel_attention`.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_fraction, check_odd, check_positive_int
from ._deployed import reduce_deployed
from ._init import start_from_zero
from ._ops import is_deployed, max_over

__all__ = ["SpatialAttention"]


def max_over_channels(x: Tensor) -> Tensor:
    """``[N, C, H, W] -> [N, 1, H, W]`` maximum, with a backward of O(numel)."""
    return max_over(x, 1)


def max_over_channels_deployed(x: Tensor) -> Tensor:
    """The same forward as :func:`max_over_channels`, for graphs without a backward."""
    return reduce_deployed(paddle.max, x, 1)


@register_attention(
    "SpatialAttention",
    paper="CBAM: Convolutional Block Attention Module",
    arxiv="1807.06521",
    year=2018,
    domain="spatial",
    computed_by="channel max and mean + conv",
    applied_by="scale",
)
class SpatialAttention(GateLayer):
    r"""CBAM's spatial gate: a convolution on the per-pixel max and mean over channels.

    .. math::
        M_s(x) = \sigma(f^{7\times 7}([\mathrm{max}_c(x);\ \mathrm{mean}_c(x)])),
        \qquad y = M_s(x)\, x

    (arXiv 1807.06521, equation 3; ``SpatialGate`` of the authors' code). The
    two maps are in the order [max, mean] of the authors' code; the paper's
    equation prints them the other way round.

    Args:
        channels (int): channels of the input.
        kernel_size (int): odd size of the convolution.
        bn (bool): batch normalisation after the convolution, as in the authors'
            code (eps 1e-5).
        bn_momentum (float): weight of a step's value in its running statistics: 0.01 in the
            authors' code, 0.1 in timm's.
        identity_init (bool): start as the identity: every gate is doubled and its
            last layer starts from 0, so all weights start at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, or an input that is not
            ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {
        "authors": {"conv": "spatial.conv", "bn": "spatial.bn"},
        # timm's maps are in the order [mean, max]
        "timm": {"conv": ("conv.conv", lambda w: w[:, ::-1]), "bn": "conv.bn"},
    }

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        bn: bool = True,
        identity_init: bool = False,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_odd("kernel_size", kernel_size)
        check_fraction(bn_momentum=bn_momentum)
        self.channels = channels
        self.conv = nn.Conv2D(2, 1, kernel_size, padding=kernel_size // 2, bias_attr=False)
        # Paddle's momentum is the weight of the old value.
        self.bn = nn.BatchNorm2D(1, momentum=1.0 - bn_momentum, epsilon=1e-5) if bn else None
        self.identity_init = identity_init
        if identity_init:
            start_from_zero((self.bn or self.conv).weight)

    def pool(self, x: Tensor) -> Tensor:
        """Per-pixel [max, mean] over channels, ``[N, 2, H, W]``."""
        if is_deployed(self):
            maps = [max_over_channels_deployed(x), reduce_deployed(paddle.mean, x, 1)]
        else:
            maps = [max_over_channels(x), paddle.mean(x, axis=1, keepdim=True)]
        return paddle.concat(maps, axis=1)

    def gate(self, x: Tensor) -> Tensor:
        """The pixel weights, ``[N, 1, H, W]``, each in [0, 1], or [0, 2] with ``identity_init``."""
        logits = self.conv(self.pool(x))
        if self.bn is not None:
            logits = self.bn(logits)
        return 2.0 * F.sigmoid(logits) if self.identity_init else F.sigmoid(logits)
