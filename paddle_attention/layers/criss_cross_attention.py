"""Criss-cross attention.

Z. Huang, X. Wang, Y. Wei, L. Huang, H. Shi, W. Liu, T. S. Huang, "CCNet:
Criss-Cross Attention for Semantic Segmentation", arXiv 1811.11721; authors'
code: speedinghzl/CCNet.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import hidden_width
from ._chunked_attention import matmul_transposed
from ._init import constant, conv
from ._ops import full_precision, size_of, widen

__all__ = ["CrissCrossAttention"]


_FAR = 1e30  # below every attention score: its exponential is 0


def _joint_softmax(*scores: Tensor) -> tuple[Tensor, ...]:
    """The softmax of the last axes of several tensors, taken together."""
    peak = scores[0].max(axis=-1, keepdim=True)
    for more in scores[1:]:
        peak = paddle.maximum(peak, more.max(axis=-1, keepdim=True))
    powers = [paddle.exp(score - peak) for score in scores]
    total = sum(power.sum(axis=-1, keepdim=True) for power in powers)
    return tuple(power / total for power in powers)


@register_attention(
    "CrissCrossAttention",
    paper="CCNet: Criss-Cross Attention for Semantic Segmentation",
    arxiv="1811.11721",
    year=2018,
    domain="spatial",
    computed_by="matmul in rows and columns",
    applied_by="matmul, add",
)
class CrissCrossAttention(AttentionLayer):
    r"""Add to every position a weighted mean of its column and its row.

    .. math::
        y_u = \gamma \sum_{i \in \mathrm{column}(u) \cup \mathrm{row}(u)} A_{i,u} V_i + x_u

    (arXiv 1811.11721, equations 1 and 2.) One softmax over the H + W attention scores, in which
    the position itself counts once, in its row. It takes (H + W) H W
    attention scores, never (H W)^2. It starts as the identity: gamma is zero.

    Args:
        channels (int): channels of the input (``in_dim``), at least ``reduction``.
        reduction (int): queries and keys have ``channels // reduction`` channels.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"column": "column", "row": "row"}

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.channels = channels
        self.query_conv = conv(channels, hidden)
        self.key_conv = conv(channels, hidden)
        self.value_conv = conv(channels, channels)
        self.gamma = self.create_parameter([1], attr=constant(0.0))

    @staticmethod
    def _weights(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """``[N, H, W, H]`` of the column and ``[N, H, W, W]`` of the row, which sum to 1 together."""
        batch, height, width = size_of(query, (0, 2, 3))
        if not paddle.in_dynamic_mode():
            return CrissCrossAttention._deployed_weights(query, key, height)
        columns = [t.transpose([0, 3, 2, 1]).flatten(0, 1) for t in (query, key)]  # N * W, H, C
        column = matmul_transposed(*columns).reshape([batch, width, height, height])
        # -inf on the diagonal, by selection: inf * 0 is not a number.
        index = paddle.arange(0, height)
        itself = (index.unsqueeze(0) == index.unsqueeze(1)).expand_as(column)
        column = paddle.where(itself, paddle.full_like(column, float("-inf")), column)
        column = column.transpose([0, 2, 1, 3])
        rows = [t.transpose([0, 2, 3, 1]).flatten(0, 1) for t in (query, key)]  # N * H, W, C
        row = matmul_transposed(*rows).reshape([batch, height, width, width])
        weights = F.softmax(paddle.concat([column, row], axis=3), axis=3)
        return weights[..., :height], weights[..., height:]

    @staticmethod
    def _deployed_weights(query: Tensor, key: Tensor, height: Any) -> tuple[Tensor, ...]:
        """The same without joining and splitting axes of free sizes, which converters do not take."""
        column = paddle.matmul(query.transpose([0, 3, 2, 1]), key.transpose([0, 3, 1, 2]))
        row = paddle.matmul(query.transpose([0, 2, 3, 1]), key.transpose([0, 2, 1, 3]))
        index = paddle.arange(0, height)
        itself = (index.unsqueeze(0) == index.unsqueeze(1)).astype(column.dtype)
        return _joint_softmax((column - itself * _FAR).transpose([0, 2, 1, 3]), row)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'column': [N, H, W, H], 'row': [N, H, W, W]}``: weights of each position's column and row."""
        query, key = self.query_conv(x), self.key_conv(x)
        with full_precision():
            column, row = self._weights(widen(query), widen(key))
        return {"column": column, "row": row}

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        with full_precision():
            column, row = self._weights(widen(query), widen(key))
            value = widen(value).transpose([0, 2, 3, 1])
            down = paddle.matmul(column.transpose([0, 2, 1, 3]), value.transpose([0, 2, 1, 3]))
            along = paddle.matmul(row, value)
            y = (down.transpose([0, 2, 1, 3]) + along).transpose([0, 3, 1, 2]).astype(x.dtype)
        return self.gamma * y + x
