"""Polarized self-attention.

H. Liu, F. Liu, X. Fan, D. Huang, "Polarized Self-Attention: Towards
High-quality Pixel-wise Regression", arXiv 2107.00782; authors' code:
DeLightCMU/PSA.

Not to be confused with the point-wise spatial attention of PSANet, which is abbreviated PSA
as well (:class:`PSAModule`).
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_choice, check_positive_int
from ._chunked_attention import average
from ._init import conv
from ._ops import full_precision, unflatten_like, widen

__all__ = ["PolarizedSelfAttention"]

MODES = ("parallel", "sequential")


def _conv(in_channels: int, out_channels: int) -> nn.Layer:
    """1x1 convolution without bias, started by He's rule as in the authors' code."""
    start = nn.initializer.Normal(0.0, math.sqrt(2.0 / in_channels))
    return nn.Conv2D(
        in_channels, out_channels, 1, weight_attr=paddle.ParamAttr(initializer=start), bias_attr=False
    )


@register_attention(
    "PolarizedSelfAttention",
    paper="Polarized Self-Attention: Towards High-quality Pixel-wise Regression",
    arxiv="2107.00782",
    year=2021,
    domain="mixed",
    computed_by="attention pool + conv",
    applied_by="scale",
    takes_tokens=True,
)
class PolarizedSelfAttention(AttentionLayer):
    r"""A channel gate and a spatial gate that keep half the channels and all of the resolution.

    .. math::
        A^{ch} &= \sigma(W_z (W_v x \cdot \mathrm{softmax}_{positions}(W_q x))) \\
        A^{sp} &= \sigma(\mathrm{GAP}(W_q x) \cdot W_v x)

    (arXiv 2107.00782, equations 1 to 4.) ``'parallel'``: :math:`y = A^{ch} x + A^{sp} x`;
    ``'sequential'``: the channel gate, then the spatial gate of its result. As in the
    authors' code the softmax of the spatial gate runs over *positions*: in
    the parallel form after the product, in the sequential one on :math:`W_v x`; and
    only the sequential form has normalisation and a hidden layer in :math:`W_z`.

    Args:
        channels (int): channels of the input (``inplanes`` and ``planes``): at
            least 2, or 8 for ``'sequential'``.
        mode (str): ``'parallel'`` (``PSA_p``) or ``'sequential'`` (``PSA_s``).

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {
        "authors": {
            "conv_up.norm.weight": ("conv_up.1.weight", lambda w: w.reshape(-1)),
            "conv_up.norm.bias": ("conv_up.1.bias", lambda w: w.reshape(-1)),
            "conv_up.conv1": "conv_up.0",
            "conv_up.conv2": "conv_up.3",
        }
    }

    def __init__(self, channels: int, mode: str = "parallel") -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_choice("mode", mode, MODES)
        least = 2 if mode == "parallel" else 8
        if channels < least:
            raise ValueError(
                f"channels={channels} leaves no hidden channel; mode={mode!r} needs at least {least}"
            )
        inter = channels // 2
        self.channels, self.mode, self.hidden = channels, mode, inter // 4
        self.conv_q_right = _conv(channels, 1)
        self.conv_v_right = _conv(channels, inter)
        if mode == "parallel":
            self.conv_up = conv(inter, channels, bias=False)
        else:
            self.conv_up = nn.Sequential(
                ("conv1", conv(inter, self.hidden)),
                ("norm", nn.LayerNorm(self.hidden, epsilon=1e-5)),
                ("conv2", conv(self.hidden, channels)),
            )
        self.conv_q_left = _conv(channels, inter)
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.conv_v_left = _conv(channels, inter)

    def channel_gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``."""
        values, mask = self.conv_v_right(x), self.conv_q_right(x)
        with full_precision():
            weights = F.softmax(widen(mask).flatten(2), axis=2)
            context = average(widen(values).flatten(2), weights)
        context = context.unsqueeze(3).astype(x.dtype)
        if self.mode == "parallel":
            return F.sigmoid(self.conv_up(context))
        hidden = self.conv_up.norm(self.conv_up.conv1(context).flatten(1))
        return F.sigmoid(self.conv_up.conv2(F.relu(hidden).reshape([0, self.hidden, 1, 1])))

    def spatial_gate(self, x: Tensor) -> Tensor:
        """The position weights, ``[N, 1, H, W]``."""
        query, values = self.avg_pool(self.conv_q_left(x)), self.conv_v_left(x)
        with full_precision():
            query, flat = widen(query).flatten(2), widen(values).flatten(2)
            if self.mode == "parallel":
                weights = F.softmax(paddle.matmul(query, flat, transpose_x=True), axis=2)
            else:
                weights = paddle.matmul(query, F.softmax(flat, axis=2), transpose_x=True)
            return unflatten_like(F.sigmoid(weights), x).astype(x.dtype)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'channel': [N, channels, 1, 1], 'spatial': [N, 1, H, W]}``."""
        channel = self.channel_gate(x)
        return {
            "channel": channel,
            "spatial": self.spatial_gate(x if self.mode == "parallel" else x * channel),
        }

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        if self.mode == "parallel":
            return x * self.spatial_gate(x) + x * self.channel_gate(x)
        x = x * self.channel_gate(x)
        return x * self.spatial_gate(x)
