"""Multi-head self-attention among the positions of a feature map.

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
I. Polosukhin, "Attention Is All You Need", arXiv 1706.03762. Relative positions:
P. Shaw, J. Uszkoreit, A. Vaswani, arXiv 1803.02155, in two dimensions as in I. Bello,
B. Zoph, A. Vaswani, J. Shlens, Q. V. Le, arXiv 1904.09925.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_divides, check_pair
from ._chunked_attention import average, softmax_attention, softmax_weights
from ._init import conv
from ._ops import full_precision, size_of, skew, unflatten_like, widen

__all__ = ["SelfAttention2D"]


@register_attention(
    "SelfAttention2D",
    paper="Attention Is All You Need",
    arxiv="1706.03762",
    year=2017,
    domain="spatial",
    computed_by="matmul",
    applied_by="matmul, add",
    takes_tokens=True,
)
class SelfAttention2D(AttentionLayer):
    r"""Multi-head self-attention among the positions of a feature map, with a shortcut.

    .. math::
        y = x + W^O \Bigl[\mathrm{softmax}_j\Bigl(\frac{q_i \cdot (k_j + r^h_{j-i} + r^w_{j-i})}{\sqrt d}\Bigr) v_j\Bigr]

    (arXiv 1706.03762, section 3.2.2, with the relative positions of arXiv 1904.09925,
    equation 3, if ``relative_size`` is given). It starts as the identity: the last
    convolution is zero.

    Args:
        channels (int): channels of the input.
        num_heads (int): must divide ``channels``.
        relative_size (tuple of int, optional): ``(H, W)``: learn a vector for every
            vertical offset below H and every horizontal one below W. Farther
            positions get none.
        bias (bool): biases in the 1x1 convolutions.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "heads"}

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        relative_size: tuple[int, ...] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_divides(channels, num_heads=num_heads)
        self.channels, self.num_heads = channels, num_heads
        self.head_dim = channels // num_heads
        self.query_conv = conv(channels, channels, bias=bias)
        self.key_conv = conv(channels, channels, bias=bias)
        self.value_conv = conv(channels, channels, bias=bias)
        self.out_conv = conv(channels, channels, bias=bias, zero=True)
        self.relative = relative_size is not None
        if self.relative:
            height, width = check_pair("relative_size", relative_size)
            attr = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, self.head_dim**-0.5))
            self.rel_h = self.create_parameter([self.head_dim, 2 * height - 1], attr=attr)
            self.rel_w = self.create_parameter([self.head_dim, 2 * width - 1], attr=attr)

    def _heads(self, x: Tensor) -> Tensor:
        """``[N * heads, head_dim, positions]``."""
        height, width = size_of(x, (2, 3))
        return x.reshape([-1, self.head_dim, height * width])

    def _weights(self, query: Tensor, key: Tensor, x: Tensor) -> Tensor:
        """``[N * heads, positions, positions]``, with relative positions."""
        height, width = size_of(x, (2, 3))
        query = query * self.head_dim**-0.5
        scores = paddle.matmul(query, key, transpose_x=True)
        batch = size_of(query, (0,))[0]
        flat = query.transpose([0, 2, 1]).reshape([batch, height, width, self.head_dim])
        # q . r of every offset, then moved to the positions that have these offsets.
        rows = paddle.matmul(flat, widen(self.rel_h)).transpose([0, 2, 1, 3])
        rows = skew(rows, height).transpose([0, 2, 1, 3]).unsqueeze(4)  # N, H, W, other H, 1
        columns = skew(paddle.matmul(flat, widen(self.rel_w)), width).unsqueeze(3)  # N, H, W, 1, other W
        scores = scores + (rows + columns).reshape([batch, height * width, height * width])
        return nn.functional.softmax(scores, axis=-1)

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of positions (last axis) for positions, ``[N, heads, H * W, H * W]``."""
        query, key = self._heads(self.query_conv(x)), self._heads(self.key_conv(x))
        with full_precision():
            query, key = widen(query), widen(key)
            if self.relative:
                weights = self._weights(query, key, x)
            else:
                weights = softmax_weights(query, key, self.head_dim**-0.5)
        height, width = size_of(x, (2, 3))
        return weights.reshape([-1, self.num_heads, height * width, height * width])

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        maps = (self.query_conv(x), self.key_conv(x), self.value_conv(x))
        query, key, value = (self._heads(t) for t in maps)
        if self.relative:
            with full_precision():
                weights = self._weights(widen(query), widen(key), x)
                y = average(widen(value), weights).astype(x.dtype)
        else:
            y = softmax_attention(query, key, value, self.head_dim**-0.5, heads=self.num_heads)
        height, width = size_of(x, (2, 3))
        y = y.reshape([-1, self.channels, height * width])
        return x + self.out_conv(unflatten_like(y, x))
