"""Inception-ResNet-v2.

C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet and the
Impact of Residual Connections on Learning", arXiv 1602.07261; widths and depths of the
authors' released TensorFlow network (10, 20 and 10 residual modules; 299 x 299 images).
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ._blocks import ConvBN, without_weights


class Branches(nn.Layer):
    """Branches side by side, concatenated."""

    def __init__(self, *branches: nn.Layer) -> None:
        super().__init__()
        self.branches = nn.LayerList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return paddle.concat([branch(x) for branch in self.branches], axis=1)


class Residual(nn.Layer):
    """``relu(x + scale * up(branches(x)))``."""

    def __init__(
        self, channels: int, width: int, scale: float, branches: nn.Layer, activate: bool = True
    ) -> None:
        super().__init__()
        self.branches = branches
        self.up = nn.Conv2D(width, channels, 1)
        self.scale = scale
        self.relu = nn.ReLU() if activate else None

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.scale * self.up(self.branches(x))
        return self.relu(y) if self.relu else y


def _chain(*convolutions: nn.Layer) -> nn.Layer:
    return nn.Sequential(*(ConvBN(*arguments) for arguments in convolutions))


def _block35() -> nn.Layer:
    branches = Branches(
        _chain((320, 32, 1)),
        _chain((320, 32, 1), (32, 32, 3, 1, 1)),
        _chain((320, 32, 1), (32, 48, 3, 1, 1), (48, 64, 3, 1, 1)),
    )
    return Residual(320, 128, 0.17, branches)


def _block17() -> nn.Layer:
    branches = Branches(
        _chain((1088, 192, 1)),
        _chain((1088, 128, 1), (128, 160, (1, 7), 1, (0, 3)), (160, 192, (7, 1), 1, (3, 0))),
    )
    return Residual(1088, 384, 0.10, branches)


def _block8(last: bool = False) -> nn.Layer:
    branches = Branches(
        _chain((2080, 192, 1)),
        _chain((2080, 192, 1), (192, 224, (1, 3), 1, (0, 1)), (224, 256, (3, 1), 1, (1, 0))),
    )
    return Residual(2080, 448, 1.0 if last else 0.20, branches, activate=not last)


class InceptionResNetV2(nn.Layer):
    """Inception-ResNet-v2.

    Args:
        class_num (int): number of classes.
        dropout (float): probability of dropping a feature before the classifier.

    Shape:
        ``[N, 3, H, W]`` in, at least 75 x 75; ``[N, class_num]`` out.
    """

    def __init__(self, class_num: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBN(3, 32, 3, 2),
            ConvBN(32, 32, 3),
            ConvBN(32, 64, 3, 1, 1),
            nn.MaxPool2D(3, 2),
            ConvBN(64, 80, 1),
            ConvBN(80, 192, 3),
            nn.MaxPool2D(3, 2),
        )
        self.mixed_5b = Branches(
            _chain((192, 96, 1)),
            _chain((192, 48, 1), (48, 64, 5, 1, 2)),
            _chain((192, 64, 1), (64, 96, 3, 1, 1), (96, 96, 3, 1, 1)),
            nn.Sequential(nn.AvgPool2D(3, 1, padding=1), ConvBN(192, 64, 1)),
        )
        self.block35 = nn.Sequential(*(_block35() for _ in range(10)))
        self.mixed_6a = Branches(
            _chain((320, 384, 3, 2)),
            _chain((320, 256, 1), (256, 256, 3, 1, 1), (256, 384, 3, 2)),
            nn.MaxPool2D(3, 2),
        )
        self.block17 = nn.Sequential(*(_block17() for _ in range(20)))
        self.mixed_7a = Branches(
            _chain((1088, 256, 1), (256, 384, 3, 2)),
            _chain((1088, 256, 1), (256, 288, 3, 2)),
            _chain((1088, 256, 1), (256, 288, 3, 1, 1), (288, 320, 3, 2)),
            nn.MaxPool2D(3, 2),
        )
        self.block8 = nn.Sequential(*(_block8(last=i == 9) for i in range(10)))
        self.conv_7b = ConvBN(2080, 1536, 1)
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1536, class_num)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block35(self.mixed_5b(self.stem(x)))
        x = self.block8(self.mixed_7a(self.block17(self.mixed_6a(x))))
        return self.fc(self.dropout(self.avg_pool(self.conv_7b(x)).flatten(1)))


def Inception_ResNet_v2(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    """:class:`InceptionResNetV2` in PaddleClas' form; there are no published Paddle weights of it."""
    return without_weights("Inception_ResNet_v2", InceptionResNetV2(**kwargs), pretrained)
