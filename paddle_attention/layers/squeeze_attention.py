"""Squeeze-and-attention.

Z. Zhong, Z. Q. Lin, R. Bidart, X. Hu, I. Ben Daya, Z. Li, W.-S. Zheng, J. Li,
A. Wong, "Squeeze-and-Attention Networks for Semantic Segmentation", arXiv
1909.03402. No code of the authors is public; this is written from the paper.

Not to be confused with shuffle attention, whose paper is called SA-Net
(:class:`ShuffleAttention`).
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_choice, check_positive_int
from ._init import batch_norm, conv
from ._ops import resize, size_of

__all__ = ["SqueezeAttention"]


def _convolutions(in_channels: int, out_channels: int) -> nn.Layer:
    """Two 3x3 convolutions with normalisation, ReLU between."""
    return nn.Sequential(
        conv(in_channels, out_channels, 3, padding=1),
        batch_norm(out_channels),
        nn.ReLU(),
        conv(out_channels, out_channels, 3, padding=1),
        batch_norm(out_channels),
    )


@register_attention(
    "SqueezeAttention",
    paper="Squeeze-and-Attention Networks for Semantic Segmentation",
    arxiv="1909.03402",
    year=2019,
    domain="mixed",
    computed_by="avg pool + conv",
    applied_by="scale, add",
)
class SqueezeAttention(GateLayer):
    r"""Attention computed by convolutions on a smaller map, multiplied with the features and added.

    .. math::
        A = \mathrm{Up}(\sigma(F_{attn}(\mathrm{APool}(x)))), \qquad y = A * X_{res} + A

    (arXiv 1909.03402, section 3.2 and Figure 2). Unlike in SE, the average pooling does
    not squeeze to one pixel and the attention is made by convolutions. In the paper
    :math:`X_{res}` is a block's own convolutions of x (``main_branch=True``);
    as a plug-in it is x itself.

    Args:
        channels (int): channels of the input.
        out_channels (int, optional): channels of the output; another number
            than ``channels`` needs ``main_branch``. Default: ``channels``.
        pool_size (int): the attention works on a map so many times smaller; a last
            incomplete window is averaged over what there is of it.
        main_branch (bool): two 3x3 convolutions for :math:`X_{res}`.
        activation (str): sigma, ``'sigmoid'`` or ``'relu'``.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        pool_size: int = 2,
        main_branch: bool = False,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels, pool_size=pool_size)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(out_channels=out_channels)
        check_choice("activation", activation, ("sigmoid", "relu"))
        if out_channels != channels and not main_branch:
            raise ValueError(
                f"out_channels={out_channels} differs from channels={channels}; that needs main_branch=True"
            )
        self.channels, self.activation = channels, activation
        # ceil_mode, and the mean of what there is: a single row or column has one too
        self.avg_pool = nn.AvgPool2D(pool_size, ceil_mode=True, exclusive=True)
        self.conv_attn = _convolutions(channels, out_channels)
        self.conv_main = _convolutions(channels, out_channels) if main_branch else None

    def gate(self, x: Tensor) -> Tensor:
        """The attention A, ``[N, out_channels, H, W]``."""
        attention = self.conv_attn(self.avg_pool(x))
        attention = F.sigmoid(attention) if self.activation == "sigmoid" else F.relu(attention)
        return resize(attention, size_of(x, (2, 3)), align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        attention = self.gate(x)
        main = x if self.conv_main is None else F.relu(self.conv_main(x))
        return attention * main + attention
