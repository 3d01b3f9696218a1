"""Inception with batch normalisation.

S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift", arXiv 1502.03167, Figure 5; widths of the Caffe
network that later papers build on (2.03 G multiply-adds).
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ._blocks import ConvBN, without_weights


class Inception(nn.Layer):
    """One module: 1x1, 3x3, two 3x3 and pooling side by side; of stride 2 without the first."""

    def __init__(
        self,
        in_channels: int,
        one: int,
        three: tuple[int, int],
        double: tuple[int, int],
        pool: tuple[str, int],
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.branches = nn.LayerList()
        if one:
            self.branches.append(ConvBN(in_channels, one, 1))
        reduce, width = three
        self.branches.append(
            nn.Sequential(ConvBN(in_channels, reduce, 1), ConvBN(reduce, width, 3, stride, 1))
        )
        reduce, width = double
        self.branches.append(
            nn.Sequential(
                ConvBN(in_channels, reduce, 1),
                ConvBN(reduce, width, 3, 1, 1),
                ConvBN(width, width, 3, stride, 1),
            )
        )
        kind, width = pool
        if kind == "avg":
            pooling = nn.AvgPool2D(3, stride=1, padding=1)
        else:
            pooling = nn.MaxPool2D(3, stride=stride, padding=1)
        self.branches.append(nn.Sequential(pooling, ConvBN(in_channels, width, 1)) if width else pooling)

    def forward(self, x: Tensor) -> Tensor:
        return paddle.concat([branch(x) for branch in self.branches], axis=1)


# name: 1x1, (reduce, 3x3), (reduce, double 3x3), (pooling, projection), stride
_MODULES = {
    "3a": (64, (64, 64), (64, 96), ("avg", 32), 1),
    "3b": (64, (64, 96), (64, 96), ("avg", 64), 1),
    "3c": (0, (128, 160), (64, 96), ("max", 0), 2),
    "4a": (224, (64, 96), (96, 128), ("avg", 128), 1),
    "4b": (192, (96, 128), (96, 128), ("avg", 128), 1),
    "4c": (160, (128, 160), (128, 160), ("avg", 128), 1),
    "4d": (96, (128, 192), (160, 192), ("avg", 128), 1),
    "4e": (0, (128, 192), (192, 256), ("max", 0), 2),
    "5a": (352, (192, 320), (160, 224), ("avg", 128), 1),
    "5b": (352, (192, 320), (192, 224), ("max", 128), 1),
}


class BNInception(nn.Layer):
    """BN-Inception.

    Args:
        class_num (int): number of classes.

    Shape:
        ``[N, 3, H, W]`` in, ``[N, class_num]`` out.
    """

    def __init__(self, class_num: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBN(3, 64, 7, 2, 3),
            nn.MaxPool2D(3, 2, padding=1),
            ConvBN(64, 64, 1),
            ConvBN(64, 192, 3, 1, 1),
            nn.MaxPool2D(3, 2, padding=1),
        )
        channels = 192
        for name, (one, three, double, pool, stride) in _MODULES.items():
            self.add_sublayer(f"inception_{name}", Inception(channels, one, three, double, pool, stride))
            channels = one + three[1] + double[1] + (pool[1] or channels)
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(channels, class_num)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in _MODULES:
            x = self._sub_layers[f"inception_{name}"](x)
        return self.fc(self.avg_pool(x).flatten(1))


def BN_Inception(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    """:class:`BNInception` in PaddleClas' form; there are no published Paddle weights of it."""
    return without_weights("BN_Inception", BNInception(**kwargs), pretrained)
