"""Criss-cross attention.

Z. Huang, X. Wang, Y. Wei, L. Huang, H. Shi, W. Liu, T. S. Huang, "CCNet:
Criss-Cross Attention for Semantic Segmentation", arXiv 1811.11721; authors'
code: speedinghzl/CCNet.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ._abn import conv_abn
from ._attend import matmul_transposed
from ._common import (
    AttentionLayer,
    check_feature_map,
    check_positive_int,
    constant,
    conv,
    full_precision,
    hidden_width,
    size_of,
    widen,
)


class CrissCrossAttention(AttentionLayer):
    r"""Add to every position a weighted mean of its column and its row.

    .. math::
        y_u = \gamma \sum_{i \in \mathrm{column}(u) \cup \mathrm{row}(u)} A_{i,u} V_i + x_u

    (arXiv 1811.11721, equations 1 and 2.) One softmax over the H + W energies, in which
    the position itself counts once, in its row. It takes (H + W) H W
    energies, never (H W)^2. It starts as the identity: gamma is zero.

    Args:
        channels (int): channels of the input (``in_dim``), at least ``reduction``.
        reduction (int): queries and keys have ``channels // reduction`` channels.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels, reduction=8):
        super().__init__()
        hidden = hidden_width("CrissCrossAttention", channels, reduction)
        self.channels = channels
        self.query_conv = conv(channels, hidden)
        self.key_conv = conv(channels, hidden)
        self.value_conv = conv(channels, channels)
        self.gamma = self.create_parameter([1], attr=constant(0.0))

    @staticmethod
    def _weights(query, key):
        """``[N, H, W, H]`` of the column and ``[N, H, W, W]`` of the row, which sum to 1 together."""
        batch, height, width = size_of(query, (0, 2, 3))
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

    def attention_maps(self, x):
        """``{'column': [N, H, W, H], 'row': [N, H, W, W]}``: weights of each position's column and row."""
        query, key = self.query_conv(x), self.key_conv(x)
        with full_precision():
            column, row = self._weights(widen(query), widen(key))
        return {"column": column, "row": row}

    def forward(self, x):
        check_feature_map("CrissCrossAttention", x, self.channels)
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        with full_precision():
            column, row = self._weights(widen(query), widen(key))
            value = widen(value).transpose([0, 2, 3, 1])
            down = paddle.matmul(column.transpose([0, 2, 1, 3]), value.transpose([0, 2, 1, 3]))
            along = paddle.matmul(row, value)
            y = (down.transpose([0, 2, 1, 3]) + along).transpose([0, 3, 1, 2]).astype(x.dtype)
        return self.gamma * y + x

    def extra_repr(self):
        return f"channels={self.channels}"


class RCCA(AttentionLayer):
    """Recurrent criss-cross attention: with two rounds every position sees every other.

    A 3x3 convolution to a quarter of the channels, ``recurrence`` rounds of one shared
    :class:`CrissCrossAttention`, a 3x3 convolution, and a 3x3 convolution of
    ``[input, result]`` (arXiv 1811.11721, section 3.3; ``RCCAModule``). The
    convolutions are followed by normalisation and leaky ReLU.

    Args:
        channels (int): channels of the input (``in_channels``), at least 32.
        out_channels (int, optional): channels of the last 3x3 convolution. Default: ``channels``.
        num_classes (int, optional): end in a 1x1 convolution to so many channels.
        recurrence (int): number of rounds.
        dropout (float): probability of dropping a channel after the last 3x3 convolution.
        abs_gamma (bool): scale by ``|weight| + 1e-5`` in the normalisations, as the
            InPlaceABN kernel does.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels or num_classes, H, W]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(
        self, channels, out_channels=None, num_classes=None, recurrence=2, dropout=0.1, abs_gamma=False
    ):
        super().__init__()
        check_positive_int("RCCA", channels=channels, recurrence=recurrence)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int("RCCA", out_channels=out_channels)
        if channels < 32:
            raise ValueError(
                f"RCCA: its attention has channels={channels} // 4 // 8 query channels, which leaves "
                "none; give at least 32 channels"
            )
        self.channels, self.recurrence = channels, recurrence
        inter = channels // 4

        def unit(width, out):
            return conv_abn(width, out, 3, bias=False, padding=1, abs_gamma=abs_gamma)

        self.conva = unit(channels, inter)
        self.cca = CrissCrossAttention(inter)
        self.convb = unit(inter, inter)
        self.bottleneck = nn.Sequential(*unit(channels + inter, out_channels), nn.Dropout2D(dropout))
        if num_classes is not None:
            check_positive_int("RCCA", num_classes=num_classes)
            self.bottleneck.add_sublayer("3", conv(out_channels, num_classes))

    def attention_maps(self, x):
        """The maps of every round, a list of ``{'column': ..., 'row': ...}``."""
        maps, y = [], self.conva(x)
        for _ in range(self.recurrence):
            maps.append(self.cca.attention_maps(y))
            y = self.cca(y)
        return maps

    def forward(self, x):
        check_feature_map("RCCA", x, self.channels)
        y = self.conva(x)
        for _ in range(self.recurrence):
            y = self.cca(y)
        return self.bottleneck(paddle.concat([x, self.convb(y)], axis=1))
