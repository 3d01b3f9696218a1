"""Efficient Channel Attention.

Q. Wang, B. Wu, P. Zhu, P. Li, W. Zuo, Q. Hu, "ECA-Net: Efficient Channel
Attention for Deep Convolutional Neural Networks", arXiv 1910.03151; authors'
code: BangguWu/ECANet.
"""

from __future__ import annotations

import math

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_odd, check_positive_int
from ._init import conv, start_from_zero

__all__ = ["ECA"]


def eca_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    r"""Odd kernel size nearest to :math:`|\log_2(C)/\gamma + b/\gamma|` (equation 12).

    As the authors compute it: truncate, then add 1 if even. For C = 64, 128,
    256, 512, 1024, 2048 that is 3, 5, 5, 5, 5, 7. The paper's own experiments
    and the released models do not follow the formula: they use 3, 5 or 7, chosen by hand
    for each stage, so give ``k_size`` to load them.
    """
    size = int(abs((math.log2(channels) + b) / gamma))
    return size if size % 2 else size + 1


@register_attention(
    "ECA",
    paper="ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    arxiv="1910.03151",
    year=2019,
    domain="channel",
    computed_by="avg pool + 1-D conv",
    applied_by="scale",
    takes_tokens=True,
)
class ECA(GateLayer):
    r"""Rescale channels by a gate from a 1-D convolution over neighbouring channels' averages.

    .. math::
        y_c = \sigma\Bigl(\sum_j w_j\, z_{c+j}\Bigr)\, x_c, \qquad z = \mathrm{GAP}(x)

    (arXiv 1910.03151, equations 7 to 9.) No bias; zeros beyond the first and last channel.

    Args:
        channels (int): channels of the input.
        k_size (int, optional): odd kernel size. Default: :func:`eca_kernel_size`.
        gamma, b (float): constants of that formula.
        identity_init (bool): start as the identity: the gate is doubled and the
            kernel starts from 0, so every weight starts at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    _KEYS = {"conv.weight": ("conv.weight", lambda w: w[..., None])}
    TORCH_KEYS = {"authors": _KEYS, "timm": _KEYS}

    def __init__(
        self,
        channels: int,
        k_size: int | None = None,
        gamma: float = 2,
        b: float = 1,
        identity_init: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        if not isinstance(gamma, (int, float)) or gamma <= 0:
            raise ValueError(f"gamma must be a positive number, but got {gamma!r}")
        if k_size is None:
            k_size = eca_kernel_size(channels, gamma, b)
        check_odd("k_size", k_size)
        self.channels = channels
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        # A (k, 1) kernel over a [N, 1, C, 1] map: no transposition is needed.
        self.conv = conv(1, 1, (k_size, 1), bias=False, padding=(k_size // 2, 0))
        self.identity_init = identity_init
        if identity_init:
            start_from_zero(self.conv.weight)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 1], or [0, 2] with ``identity_init``."""
        z = self.avg_pool(x).reshape([0, 1, self.channels, 1])
        gate = F.sigmoid(self.conv(z)).reshape([0, self.channels, 1, 1])
        return 2.0 * gate if self.identity_init else gate
