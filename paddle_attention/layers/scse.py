"""Concurrent spatial and channel squeeze and excitation.

A. G. Roy, N. Navab, C. Wachinger, "Concurrent Spatial and Channel Squeeze &
Excitation in Fully Convolutional Networks", arXiv 1803.02579; authors' code:
ai-med/squeeze_and_excitation.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_choice, hidden_width
from ._init import conv, start_from_zero

__all__ = ["scSE"]


@register_attention(
    "scSE",
    paper="Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
    arxiv="1803.02579",
    year=2018,
    domain="mixed",
    computed_by="avg pool + FC, and conv",
    applied_by="scale",
)
class scSE(AttentionLayer):  # the paper's own spelling
    r"""The larger of a channel-wise and a position-wise rescaling, element by element.

    .. math::
        y = \max(x\, \sigma(W_2\, \mathrm{ReLU}(W_1 \mathrm{GAP}(x))),\; x\, \sigma(w \cdot x_{ij}))

    (arXiv 1803.02579, equations 2 and 3; the maximum is the authors' code's, where the paper adds.)

    Args:
        channels (int): channels of the input (``num_channels``).
        reduction (int): the hidden width is ``channels // reduction`` (``reduction_ratio``).
        min_hidden (int, optional): the hidden width at least, for layers of few channels.
        aggregate (str): ``'max'`` or ``'add'``.
        identity_init (bool): start as the identity: both gates are doubled (with
            ``'add'``, not) and their last layers start from 0.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {"authors": {"fc1": "cSE.fc1", "fc2": "cSE.fc2", "conv": "sSE.conv"}}

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        aggregate: str = "max",
        identity_init: bool = False,
        min_hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction, min_hidden=min_hidden)
        check_choice("aggregate", aggregate, ("max", "add"))
        self.channels, self.aggregate = channels, aggregate
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = conv(channels, hidden)
        self.fc2 = conv(hidden, channels)
        self.conv = conv(channels, 1)
        self.scale = 2.0 if identity_init and aggregate == "max" else 1.0
        if identity_init:
            for last in (self.fc2, self.conv):
                start_from_zero(last.weight, last.bias)

    def gates(self, x: Tensor) -> tuple[Tensor, ...]:
        """Gates of the channels ``[N, channels, 1, 1]`` and of the positions ``[N, 1, H, W]``."""
        channel = F.sigmoid(self.fc2(F.relu(self.fc1(self.avg_pool(x)))))
        spatial = F.sigmoid(self.conv(x))
        return (channel, spatial) if self.scale == 1.0 else (self.scale * channel, self.scale * spatial)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'channel': [N, channels, 1, 1], 'spatial': [N, 1, H, W]}``."""
        return dict(zip(("channel", "spatial"), self.gates(x)))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        channel, spatial = self.gates(x)
        if self.aggregate == "add":
            return x * channel + x * spatial
        return paddle.maximum(x * channel, x * spatial)
