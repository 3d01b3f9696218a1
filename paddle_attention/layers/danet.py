"""Dual attention: position and channel attention.

J. Fu, J. Liu, H. Tian, Y. Li, Y. Bao, Z. Fang, H. Lu, "Dual Attention Network
for Scene Segmentation", arXiv 1809.02983; authors' code: junfu1115/DANet.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ._attend import matmul_transposed, softmax_attention, softmax_attention_naive, softmax_weights
from ._common import (
    AttentionLayer,
    batch_norm,
    check_feature_map,
    check_positive_int,
    constant,
    conv,
    full_precision,
    hidden_width,
    unflatten_like,
    widen,
)


class PAM(AttentionLayer):
    r"""Position attention: add to every position a softmax-weighted mean of all.

    .. math::
        s_{ji} = \mathrm{softmax}_i(B_i \cdot C_j), \qquad y_j = \alpha \sum_i s_{ji} D_i + x_j

    (arXiv 1809.02983, equations 1 and 2.) Queries and keys have an eighth of
    the channels; the energies are not scaled. The queries are taken in turns
    where the map is large. It starts as the identity: alpha (``gamma``) is zero.

    Args:
        channels (int): channels of the input (``in_dim``), at least ``reduction``.
        reduction (int): queries and keys have ``channels // reduction`` channels.
        naive (bool): the textbook form, to test against.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels, reduction=8, naive=False):
        super().__init__()
        hidden = hidden_width("PAM", channels, reduction)
        self.channels = channels
        self.naive = naive
        self.query_conv = conv(channels, hidden)
        self.key_conv = conv(channels, hidden)
        self.value_conv = conv(channels, channels)
        self.gamma = self.create_parameter([1], attr=constant(0.0))

    def attention_maps(self, x):
        """Weights of positions (last axis) for positions (middle), ``[N, H * W, H * W]``."""
        query, key = self.query_conv(x).flatten(2), self.key_conv(x).flatten(2)
        with full_precision():
            return softmax_weights(widen(query), widen(key))

    def forward(self, x):
        check_feature_map("PAM", x, self.channels)
        attend = softmax_attention_naive if self.naive else softmax_attention
        maps = (self.query_conv(x), self.key_conv(x), self.value_conv(x))
        y = attend(*(t.flatten(2) for t in maps))
        return self.gamma * unflatten_like(y, x) + x

    def extra_repr(self):
        return f"channels={self.channels}"


class CAM(AttentionLayer):
    r"""Channel attention: add to every channel a weighted mean of all.

    .. math::
        y_j = \beta \sum_i \mathrm{softmax}_i(\max_k e_{jk} - e_{ji})\, x_i + x_j, \qquad e_{ji} = x_j \cdot x_i

    (arXiv 1809.02983, equations 3 and 4.) As in the authors' code, *unlike* channels
    weigh most, and the gradient also flows through the maximum (which cancels in
    the softmax). It starts as the identity: beta (``gamma``) is zero.

    Args:
        channels (int): channels of the input (``in_dim``).

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels):
        super().__init__()
        check_positive_int("CAM", channels=channels)
        self.channels = channels
        self.gamma = self.create_parameter([1], attr=constant(0.0))

    def attention_maps(self, x):
        """Weights of channels (last axis) for channels (middle), ``[N, channels, channels]``."""
        return self._weights(x)

    @staticmethod
    def _weights(x):
        with full_precision():
            flat = widen(x).flatten(2)
            # softmax(max - e) is softmax(-e): a constant of the row cancels, in the gradient too.
            return F.softmax(-matmul_transposed(flat, flat), axis=-1)

    def forward(self, x):
        check_feature_map("CAM", x, self.channels)
        weights = self._weights(x)
        with full_precision():
            y = paddle.matmul(weights, widen(x).flatten(2)).astype(x.dtype)
        return self.gamma * unflatten_like(y, x) + x

    def extra_repr(self):
        return f"channels={self.channels}"


class DAModule(AttentionLayer):
    r"""DANet's position and channel attention side by side, on a quarter of the channels.

    .. math::
        y = W\,(\mathrm{conv}(\mathrm{PAM}(\mathrm{conv}(x))) + \mathrm{conv}(\mathrm{CAM}(\mathrm{conv}(x))))

    (arXiv 1809.02983, Figure 2; the convolutions are 3x3 with normalisation and ReLU.) As a
    plug-in: the last 1x1 convolution returns to ``channels``, where DANet has its classes.

    Args:
        channels (int): channels of the input, at least 32.
        out_channels (int, optional): channels of the output. Default: ``channels``.
        dropout (float): probability of dropping a channel before the last convolution.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels, out_channels=None, dropout=0.1):
        super().__init__()
        name = type(self).__name__
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(name, channels=channels, out_channels=out_channels)
        if channels < 32:
            raise ValueError(
                f"{name}: its position attention has channels={channels} // 4 // 8 query channels, "
                "which leaves none; give at least 32 channels"
            )
        self.channels = channels
        inter = channels // 4

        def unit(width):
            convolution = conv(width, inter, 3, bias=False, padding=1)
            return nn.Sequential(convolution, batch_norm(inter), nn.ReLU())

        self.conv5a, self.conv5c = unit(channels), unit(channels)
        self.sa, self.sc = PAM(inter), CAM(inter)
        self.conv51, self.conv52 = unit(inter), unit(inter)
        self.conv8 = self._last(inter, out_channels, dropout)

    @staticmethod
    def _last(inter, out_channels, dropout):
        return nn.Sequential(nn.Dropout2D(dropout), conv(inter, out_channels))

    def attention_maps(self, x):
        """``{'position': [N, H * W, H * W], 'channel': [N, channels // 4, channels // 4]}``."""
        return {
            "position": self.sa.attention_maps(self.conv5a(x)),
            "channel": self.sc.attention_maps(self.conv5c(x)),
        }

    def _both(self, x):
        """The features of the position and of the channel attention."""
        check_feature_map(type(self).__name__, x, self.channels)
        return self.conv51(self.sa(self.conv5a(x))), self.conv52(self.sc(self.conv5c(x)))

    def forward(self, x):
        position, channel = self._both(x)
        return self.conv8(position + channel)


class DAHead(DAModule):
    """DANet's head, which also predicts from each attention alone (``DANetHead``).

    Args:
        channels (int): channels of the input (``in_channels``), at least 32.
        out_channels (int): channels of each output, such as the number of classes.
        dropout (float): probability of dropping a channel before the last convolutions.

    Shape:
        ``[N, channels, H, W]`` in; a tuple of three ``[N, out_channels, H, W]``
        out: fused, of the position attention, of the channel attention.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels, out_channels, dropout=0.1):
        super().__init__(channels, out_channels, dropout)
        self.conv6, self.conv7 = (self._last(channels // 4, out_channels, dropout) for _ in range(2))

    def forward(self, x):
        position, channel = self._both(x)
        return self.conv8(position + channel), self.conv6(position), self.conv7(channel)
