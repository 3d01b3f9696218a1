"""CBAM: channel attention, then spatial attention.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon, "CBAM: Convolutional Block Attention
Module", arXiv 1807.06521; authors' code: Jongchan/attention-module.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from .channel_attention import ChannelAttention
from .spatial_attention import SpatialAttention

__all__ = ["CBAM"]


@register_attention(
    "CBAM",
    paper="CBAM: Convolutional Block Attention Module",
    arxiv="1807.06521",
    year=2018,
    domain="mixed",
    computed_by="avg and max pool + FC, then channel max and mean + conv",
    applied_by="scale",
)
class CBAM(AttentionLayer):
    r"""Channel attention, then spatial attention on its result.

    .. math::
        x' = M_c(x)\, x, \qquad y = M_s(x')\, x'

    (arXiv 1807.06521, equation 1.)

    Args:
        channels (int): channels of the input (``gate_channels`` of the authors' code).
        reduction (int): see :class:`ChannelAttention` (``reduction_ratio``).
        kernel_size (int): see :class:`SpatialAttention`.
        pool_types (sequence of str): see :class:`ChannelAttention`.
        no_spatial (bool): leave the spatial gate out.
        spatial_bn (bool): batch normalisation in the spatial gate, as in the
            authors' code; the paper's equation 3 has none.
        bn_momentum (float): see :class:`SpatialAttention`.
        bias (bool): biases in the MLP of the channel gate.
        hidden_channels (int, optional): hidden width of that MLP, instead of
            ``channels // reduction``.
        min_hidden (int, optional): that width at least, for layers of few channels.
        identity_init (bool): start as the identity: every gate is doubled and its
            last layer starts from 0, so all weights start at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, a ``reduction`` that leaves no
            hidden channel, or an input that is not ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {
        "authors": {"channel_gate": "ChannelGate", "spatial_gate": "SpatialGate"},
        "timm": {"channel_gate": "channel", "spatial_gate": "spatial"},
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        pool_types: Sequence[str] = ("avg", "max"),
        no_spatial: bool = False,
        spatial_bn: bool = True,
        bias: bool = True,
        hidden_channels: int | None = None,
        identity_init: bool = False,
        bn_momentum: float = 0.01,
        min_hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.channel_gate = ChannelAttention(
            channels, reduction, pool_types, bias, hidden_channels, identity_init, min_hidden
        )
        self.spatial_gate = (
            None
            if no_spatial
            else SpatialAttention(channels, kernel_size, spatial_bn, identity_init, bn_momentum)
        )

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'channel': [N, channels, 1, 1], 'spatial': [N, 1, H, W]}``; no spatial one with ``no_spatial``."""
        maps = {"channel": self.channel_gate.gate(x)}
        if self.spatial_gate is not None:
            maps["spatial"] = self.spatial_gate.gate(x * maps["channel"])
        return maps

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        x = self.channel_gate(x)
        return x if self.spatial_gate is None else self.spatial_gate(x)
