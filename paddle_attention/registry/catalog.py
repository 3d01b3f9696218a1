"""Registry entries of the built-in mechanisms."""

from ..layers import CBAM, ChannelAttention, SEBlock, SpatialAttention
from .core import register_attention

register_attention(
    "SE",
    paper="Squeeze-and-Excitation Networks",
    arxiv="1709.01507",
    year=2017,
    domain="channel",
    computed_by="avg pool + FC",
    applied_by="scale",
)(SEBlock)

_CBAM_PAPER = {
    "paper": "CBAM: Convolutional Block Attention Module",
    "arxiv": "1807.06521",
    "year": 2018,
    "applied_by": "scale",
}
register_attention(
    "CBAM",
    domain="mixed",
    computed_by="avg and max pool + FC, then channel max and mean + conv",
    **_CBAM_PAPER,
)(CBAM)
register_attention("ChannelAttention", domain="channel", computed_by="avg and max pool + FC", **_CBAM_PAPER)(
    ChannelAttention
)
register_attention(
    "SpatialAttention", domain="spatial", computed_by="channel max and mean + conv", **_CBAM_PAPER
)(SpatialAttention)
