"""Recurrent criss-cross attention.

Z. Huang, X. Wang, Y. Wei, L. Huang, H. Shi, W. Liu, T. S. Huang, "CCNet:
Criss-Cross Attention for Semantic Segmentation", arXiv 1811.11721; authors'
code: speedinghzl/CCNet.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from ..registry import register_attention
from ._abn import conv_abn
from ._base import AttentionLayer
from ._checks import check_fraction, check_positive_int
from ._init import conv
from .criss_cross_attention import CrissCrossAttention

__all__ = ["RCCA"]


@register_attention(
    "RCCA",
    paper="CCNet: Criss-Cross Attention for Semantic Segmentation",
    arxiv="1811.11721",
    year=2018,
    domain="spatial",
    computed_by="matmul in rows and columns",
    applied_by="matmul, concat",
)
class RCCA(AttentionLayer):
    """Recurrent criss-cross attention: with two rounds every position sees every other.

    A 3x3 convolution to a quarter of the channels, ``recurrence`` rounds of one shared
    :class:`CrissCrossAttention`, a 3x3 convolution, and a 3x3 convolution of
    ``[input, result]`` (arXiv 1811.11721, section 3.3; ``RCCAModule``). The
    convolutions are followed by normalisation and leaky ReLU.

    Args:
        channels (int): channels of the input (``in_channels``), at least 32.
        out_channels (int, optional): channels of the last 3x3 convolution. Default: ``channels``.
        num_classes (int, optional): end in a 1x1 convolution to so many channels.
        recurrence (int): number of rounds.
        dropout (float): probability of dropping a channel after the last 3x3 convolution.
        abs_gamma (bool): scale by ``|weight| + 1e-5`` in the normalisations, as the
            InPlaceABN kernel does.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels or num_classes, H, W]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"column": "column", "row": "row"}

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        num_classes: int | None = None,
        recurrence: int = 2,
        dropout: float = 0.1,
        abs_gamma: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels, recurrence=recurrence)
        check_fraction(dropout=dropout)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(out_channels=out_channels)
        if channels < 32:
            raise ValueError(
                f"its attention has channels={channels} // 4 // 8 query channels, which leaves "
                "none; give at least 32 channels"
            )
        self.channels, self.recurrence = channels, recurrence
        inter = channels // 4

        def unit(width: int, out: int) -> nn.Layer:
            return conv_abn(width, out, 3, bias=False, padding=1, abs_gamma=abs_gamma)

        self.conva = unit(channels, inter)
        self.cca = CrissCrossAttention(inter)
        self.convb = unit(inter, inter)
        self.bottleneck = nn.Sequential(*unit(channels + inter, out_channels), nn.Dropout2D(dropout))
        if num_classes is not None:
            check_positive_int(num_classes=num_classes)
            self.bottleneck.add_sublayer("3", conv(out_channels, num_classes))

    def attention_maps(self, x: Tensor) -> list[dict[str, Tensor]]:
        """The maps of every round, a list of ``{'column': ..., 'row': ...}``."""
        maps, y = [], self.conva(x)
        for _ in range(self.recurrence):
            maps.append(self.cca.attention_maps(y))
            y = self.cca(y)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        y = self.conva(x)
        for _ in range(self.recurrence):
            y = self.cca(y)
        return self.bottleneck(paddle.concat([x, self.convb(y)], axis=1))
