"""The ResNeXt under SENet-154.

J. Hu, L. Shen, S. Albanie, G. Sun, E. Wu, "Squeeze-and-Excitation Networks",
arXiv 1709.01507, appendix: ResNeXt-152 (64x4d) with (1) the first 1x1 convolutions
half as wide, (2) three 3x3 convolutions as the stem, (3) 3x3 instead of 1x1
projections of stride 2, (4) dropout of 0.2 before the classifier.
"""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn
from paddle.nn import functional as F

from ._blocks import ConvBN, without_weights


class Bottleneck(nn.Layer):
    """1x1 to twice, grouped 3x3 to four times, 1x1 at four times the ``planes``."""

    def __init__(self, in_channels: int, planes: int, stride: int = 1, shortcut: int = 0) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, planes * 2, 1)
        self.conv2 = nn.Sequential(
            nn.Conv2D(planes * 2, planes * 4, 3, stride, 1, groups=64, bias_attr=False),
            nn.BatchNorm2D(planes * 4),
            nn.ReLU(),
        )
        self.conv3 = nn.Sequential(
            nn.Conv2D(planes * 4, planes * 4, 1, bias_attr=False), nn.BatchNorm2D(planes * 4)
        )
        self.short = None
        if shortcut:
            self.short = nn.Sequential(
                nn.Conv2D(in_channels, planes * 4, shortcut, stride, shortcut // 2, bias_attr=False),
                nn.BatchNorm2D(planes * 4),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(y + (self.short(x) if self.short else x))


class ResNeXt154(nn.Layer):
    """SENet-154 without its attention.

    Args:
        class_num (int): number of classes.
        dropout (float): probability of dropping a feature before the classifier.

    Shape:
        ``[N, 3, H, W]`` in, ``[N, class_num]`` out.
    """

    def __init__(self, class_num: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBN(3, 64, 3, 2, 1),
            ConvBN(64, 64, 3, 1, 1),
            ConvBN(64, 128, 3, 1, 1),
            nn.MaxPool2D(3, 2, padding=1),
        )
        self.blocks = nn.LayerList()
        channels = 128
        for stage, depth in enumerate((3, 8, 36, 3)):
            planes = 64 * 2**stage
            for i in range(depth):
                stride, shortcut = (2 if stage else 1, 3 if stage else 1) if i == 0 else (1, 0)
                self.blocks.append(Bottleneck(channels, planes, stride, shortcut))
                channels = planes * 4
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, class_num)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.dropout(self.avg_pool(x).flatten(1)))


def ResNeXt154_64x4d(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    """:class:`ResNeXt154` in PaddleClas' form; there are no published Paddle weights of it."""
    return without_weights("ResNeXt154_64x4d", ResNeXt154(**kwargs), pretrained)
