"""Object context within pyramids of blocks.

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

__all__ = ["PyramidOC"]


@register_attention(
    "PyramidOC",
    **OCNET,
    domain="spatial",
    computed_by="matmul in blocks",
    applied_by="matmul, concat",
)
class PyramidOC(AttentionLayer):
    """Features beside their object contexts within pyramids of blocks (``Pyramid_OC_Module``).

    Convolution, normalisation, leaky ReLU and dropout of ``[features, context,
    context...]``, the features first widened to as many channels as all contexts
    (arXiv 1809.00916, section 3.2).

    Args:
        channels (int): channels of the input (``in_channels``).
        out_channels (int, optional): channels of the output. Default: ``channels``;
            the authors' code allows no other, here the contexts keep ``channels``.
        dropout (float): probability of dropping a channel of the output.
        sizes (sequence of int): ``partition`` of each context, see :class:`ObjectContextBlock`.
        abs_gamma (bool): see there.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out; H and W at least
        the largest of ``sizes``.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """

    MAPS = {"": "positions"}

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        dropout: float = 0.05,
        sizes: Sequence[int] = (1, 2, 3, 6),
        abs_gamma: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(out_channels=out_channels)
        check_fraction(dropout=dropout)
        sizes = checked_sizes(sizes)
        self.channels, self.sizes = channels, sizes
        self.stages = nn.LayerList(
            [ObjectContextBlock(channels, partition=n, abs_gamma=abs_gamma) for n in sizes]
        )
        fuse = conv_abn(2 * channels * len(sizes), out_channels, abs_gamma=abs_gamma)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2D(dropout))
        self.up_dr = conv_abn(channels, channels * len(sizes), abs_gamma=abs_gamma)

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """The maps of every stage, a list; those of one with blocks are a list, block by block."""
        return [stage.attention_maps(x) for stage in self.stages]

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        parts = [self.up_dr(x)] + [stage(x) for stage in self.stages]
        return self.conv_bn_dropout(paddle.concat(parts, axis=1))
