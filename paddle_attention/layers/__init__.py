"""Attention layers, one mechanism per file."""

from .cbam import CBAM, ChannelAttention, SpatialAttention
from .se import SEBlock

__all__ = ["CBAM", "ChannelAttention", "SEBlock", "SpatialAttention"]
