"""The position attention of DANet.

J. Fu, J. Liu, H. Tian, Y. Li, Y. Bao, Z. Fang, H. Lu, "Dual Attention Network
for Scene Segmentation", arXiv 1809.02983; authors' code: junfu1115/DANet.
"""

from __future__ import annotations

from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import hidden_width
from ._chunked_attention import softmax_attention, softmax_attention_naive, softmax_weights
from ._init import constant, conv
from ._ops import full_precision, unflatten_like, widen

__all__ = ["PAM"]


@register_attention(
    "PAM",
    paper="Dual Attention Network for Scene Segmentation",
    arxiv="1809.02983",
    year=2018,
    domain="spatial",
    computed_by="matmul",
    applied_by="matmul, add",
    takes_tokens=True,
)
class PAM(AttentionLayer):
    r"""Position attention: add to every position a softmax-weighted mean of all.

    .. math::
        s_{ji} = \mathrm{softmax}_i(B_i \cdot C_j), \qquad y_j = \alpha \sum_i s_{ji} D_i + x_j

    (arXiv 1809.02983, equations 1 and 2.) Queries and keys have an eighth of
    the channels; the attention scores are not scaled. The queries are taken in chunks
    where the map is large. It starts as the identity: alpha (``gamma``) is zero.

    Args:
        channels (int): channels of the input (``in_dim``), at least ``reduction``.
        reduction (int): queries and keys have ``channels // reduction`` channels.
        naive (bool): the reference form, to test against.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "positions"}

    def __init__(self, channels: int, reduction: int = 8, naive: bool = False) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.channels = channels
        self.naive = naive
        self.query_conv = conv(channels, hidden)
        self.key_conv = conv(channels, hidden)
        self.value_conv = conv(channels, channels)
        self.gamma = self.create_parameter([1], attr=constant(0.0))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of positions (last axis) for positions (middle), ``[N, H * W, H * W]``."""
        query, key = self.query_conv(x).flatten(2), self.key_conv(x).flatten(2)
        with full_precision():
            return softmax_weights(widen(query), widen(key))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        attend = softmax_attention_naive if self.naive else softmax_attention
        maps = (self.query_conv(x), self.key_conv(x), self.value_conv(x))
        y = attend(*(t.flatten(2) for t in maps))
        return self.gamma * unflatten_like(y, x) + x
