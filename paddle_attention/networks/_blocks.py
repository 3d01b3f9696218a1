"""What the backbones of this package share."""

from __future__ import annotations

from paddle import nn


class ConvBN(nn.Sequential):
    """Convolution, normalisation, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.add_sublayer(
            "conv",
            nn.Conv2D(
                in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias_attr=False
            ),
        )
        self.add_sublayer("bn", nn.BatchNorm2D(out_channels))
        self.add_sublayer("relu", nn.ReLU())


def without_weights(name: str, network: nn.Layer, pretrained: bool | str) -> nn.Layer:
    """``network``, unless weights are asked for that nobody has published."""
    if pretrained:
        raise ValueError(
            f"{name}: there are no published weights for pretrained=True; give the path of a file"
        )
    return network
