"""Object context beside the features.

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
from .object_context_block import OCNET, ObjectContextBlock, checked_sizes

__all__ = ["BaseOC"]


@register_attention(
    "BaseOC",
    **OCNET,
    domain="spatial",
    computed_by="matmul",
    applied_by="matmul, concat",
)
class BaseOC(AttentionLayer):
    """Features beside their object context, fused by a 1x1 convolution (``BaseOC_Module``).

    Convolution, normalisation, leaky ReLU and dropout of ``[context, features]``
    (arXiv 1809.00916, section 3.2). With several ``sizes`` the contexts are summed.

    Args:
        channels (int): channels of the input (``in_channels``).
        out_channels (int, optional): channels of the output. Default: ``channels``;
            the authors' code allows no other, here the context keeps ``channels``.
        key_channels, value_channels (int, optional): see :class:`ObjectContextBlock`.
        dropout (float): probability of dropping a channel of the output.
        sizes (sequence of int): ``scale`` of each context.
        abs_gamma (bool): see :class:`ObjectContextBlock`.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "positions"}

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        key_channels: int | None = None,
        value_channels: int | None = None,
        dropout: float = 0.05,
        sizes: Sequence[int] = (1,),
        abs_gamma: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_fraction(dropout=dropout)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(out_channels=out_channels)
        self.channels = channels
        self.stages = nn.LayerList(
            [
                ObjectContextBlock(channels, key_channels, value_channels, channels, scale, 1, abs_gamma)
                for scale in checked_sizes(sizes)
            ]
        )
        fuse = conv_abn(2 * channels, out_channels, abs_gamma=abs_gamma)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2D(dropout))

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """The maps of every stage, a list of ``[N, positions, positions]``."""
        return [stage.attention_maps(x) for stage in self.stages]

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        context = self.stages[0](x)
        for stage in self.stages[1:]:
            context = context + stage(x)
        return self.conv_bn_dropout(paddle.concat([context, x], axis=1))
