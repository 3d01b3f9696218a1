"""Object context as a branch of atrous spatial pyramid pooling.

Y. Yuan, L. Huang, J. Guo, C. Zhang, X. Chen, J. Wang, "OCNet: Object Context
Network for Scene Parsing", arXiv 1809.00916; authors' code:
openseg-group/OCNet.pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from ..registry import register_attention
from ._abn import conv_abn
from ._base import AttentionLayer
from ._checks import check_fraction, check_positive_int
from .object_context_block import OCNET, ObjectContextBlock

__all__ = ["ASPOC"]


class _Context(AttentionLayer):
    """``BaseOC_Context_Module``: the context alone, through a convolution."""

    def __init__(self, channels: int, key_channels: int, scale: int, abs_gamma: bool) -> None:
        super().__init__()
        self.stages = nn.LayerList(
            [ObjectContextBlock(channels, key_channels, scale=scale, abs_gamma=abs_gamma)]
        )
        self.conv_bn_dropout = conv_abn(channels, channels, abs_gamma=abs_gamma)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn_dropout(self.stages[0](x))


@register_attention(
    "ASPOC",
    **OCNET,
    domain="spatial",
    computed_by="matmul",
    applied_by="matmul, concat",
)
class ASPOC(AttentionLayer):
    """Object context as one branch of atrous spatial pyramid pooling (``ASP_OC_Module``).

    Five branches of ``out_features`` channels, ``[context, 1x1, three dilated
    3x3]``, fused to ``2 * out_features`` (arXiv 1809.00916, section 3.2).

    Args:
        channels (int): channels of the input (``features``).
        out_features (int, optional): width of the branches; half the channels of the
            output. Default: half of ``channels``, which must then be even.
        dilations (sequence of int): of the three dilated branches.
        dropout (float): probability of dropping a channel of the output.
        abs_gamma (bool): see :class:`ObjectContextBlock`.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, 2 * out_features, H, W]`` out; H and W at least 2.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """

    MAPS = {"": "positions"}

    def __init__(
        self,
        channels: int,
        out_features: int | None = None,
        dilations: Sequence[int] = (12, 24, 36),
        dropout: float = 0.1,
        abs_gamma: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_fraction(dropout=dropout)
        if out_features is None:
            if channels % 2:
                raise ValueError(
                    f"channels={channels} is odd and the output has 2 * out_features channels; "
                    "give out_features"
                )
            out_features = channels // 2
        check_positive_int(out_features=out_features)
        dilations = list(dilations)
        if len(dilations) != 3:
            raise ValueError(f"dilations takes three integers, but got {dilations}")
        for dilation in dilations:
            check_positive_int(dilations=dilation)
        self.channels = channels
        context = _Context(out_features, max(out_features // 2, 1), 2, abs_gamma)
        first = conv_abn(channels, out_features, 3, padding=1, abs_gamma=abs_gamma)
        self.context = nn.Sequential(*first, context)
        self.conv2 = conv_abn(channels, out_features, bias=False, abs_gamma=abs_gamma)
        self.conv3, self.conv4, self.conv5 = (
            conv_abn(channels, out_features, 3, bias=False, padding=d, dilation=d, abs_gamma=abs_gamma)
            for d in dilations
        )
        fuse = conv_abn(5 * out_features, 2 * out_features, bias=False, abs_gamma=abs_gamma)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2D(dropout))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of positions of the halved map, ``[N, positions, positions]``."""
        first = self.context[1](self.context[0](x))
        return self.context[2].stages[0].attention_maps(first)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        branches = (self.context, self.conv2, self.conv3, self.conv4, self.conv5)
        return self.conv_bn_dropout(paddle.concat([branch(x) for branch in branches], axis=1))
