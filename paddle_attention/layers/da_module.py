"""DANet's two attentions side by side, and its head.

J. Fu, J. Liu, H. Tian, Y. Li, Y. Bao, Z. Fang, H. Lu, "Dual Attention Network
for Scene Segmentation", arXiv 1809.02983; authors' code: junfu1115/DANet.
"""

from __future__ import annotations

from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_fraction, check_positive_int
from ._init import batch_norm, conv
from .cam import CAM
from .pam import PAM

__all__ = ["DAHead", "DAModule"]


@register_attention(
    "DAModule",
    paper="Dual Attention Network for Scene Segmentation",
    arxiv="1809.02983",
    year=2018,
    domain="mixed",
    computed_by="matmul",
    applied_by="matmul, add",
)
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

    MAPS = {"position": "positions", "channel": "channels"}

    def __init__(self, channels: int, out_channels: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(channels=channels, out_channels=out_channels)
        check_fraction(dropout=dropout)
        if channels < 32:
            raise ValueError(
                f"its position attention has channels={channels} // 4 // 8 query channels, "
                "which leaves none; give at least 32 channels"
            )
        self.channels = channels
        inter = channels // 4

        def unit(width: int) -> nn.Layer:
            convolution = conv(width, inter, 3, bias=False, padding=1)
            return nn.Sequential(convolution, batch_norm(inter), nn.ReLU())

        self.conv5a, self.conv5c = unit(channels), unit(channels)
        self.sa, self.sc = PAM(inter), CAM(inter)
        self.conv51, self.conv52 = unit(inter), unit(inter)
        self.conv8 = self._last(inter, out_channels, dropout)

    @staticmethod
    def _last(inter: int, out_channels: int, dropout: float) -> nn.Layer:
        return nn.Sequential(nn.Dropout2D(dropout), conv(inter, out_channels))

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'position': [N, H * W, H * W], 'channel': [N, channels // 4, channels // 4]}``."""
        return {
            "position": self.sa.attention_maps(self.conv5a(x)),
            "channel": self.sc.attention_maps(self.conv5c(x)),
        }

    def _both(self, x: Tensor) -> tuple[Tensor, ...]:
        """The features of the position and of the channel attention."""
        self.check_input(x)
        return self.conv51(self.sa(self.conv5a(x))), self.conv52(self.sc(self.conv5c(x)))

    def forward(self, x: Tensor) -> Tensor:
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

    def __init__(self, channels: int, out_channels: int, dropout: float = 0.1) -> None:
        super().__init__(channels, out_channels, dropout)
        self.conv6, self.conv7 = (self._last(channels // 4, out_channels, dropout) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        position, channel = self._both(x)
        return self.conv8(position + channel), self.conv6(position), self.conv7(channel)
