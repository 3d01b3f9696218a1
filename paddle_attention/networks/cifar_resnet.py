"""The ResNets for 32 x 32 images, on which many papers of attention first try a mechanism.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
arXiv 1512.03385, section 4.2: a 3x3 convolution, three stages of n blocks with 16, 32
and 64 channels (6 n + 2 layers), global average pooling, a classifier. Shortcuts have
no parameters (option A): where the size halves they skip every other position, and
the channels that are new are zero.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ._blocks import ConvBN, without_weights

_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels, 3, stride, 1)
        self.conv2 = nn.Conv2D(channels, channels, 3, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(channels)
        self.new, self.stride = channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.conv1(x)))
        if self.stride > 1:
            x = F.max_pool2d(x, 1, self.stride)  # of one position: it only skips
        if self.new:
            x = self._pad(x)
        return F.relu(y + x)

    def _pad(self, x: Tensor) -> Tensor:
        """Channels of zeros before and after."""
        before = self.new // 2
        after = self.new - before
        if paddle.in_dynamic_mode():
            return F.pad(x, [0, 0, before, after, 0, 0, 0, 0])
        # oneDNN's padding of channels destroys the memory of Paddle Inference 3.3.1.
        zeros = paddle.zeros_like(x[:, : max(before, after)])
        return paddle.concat([zeros[:, :before], x, zeros[:, :after]], axis=1)


class CifarResNet(nn.Layer):
    """A ResNet for small images.

    Args:
        blocks (int): blocks of each stage, n.
        class_num (int): number of classes.

    Shape:
        ``[N, 3, H, W]`` in, ``[N, class_num]`` out.
    """

    def __init__(self, blocks: int, class_num: int = 10) -> None:
        super().__init__()
        self.stem = ConvBN(3, _WIDTHS[0], 3, 1, 1)
        self.stages = nn.LayerList()
        channels = _WIDTHS[0]
        for width in _WIDTHS:
            stage = []
            for i in range(blocks):
                stage.append(BasicBlock(channels, width, 2 if i == 0 and width > channels else 1))
                channels = width
            self.stages.append(nn.Sequential(*stage))
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(channels, class_num)
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                nn.initializer.KaimingNormal()(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.pool(x).flatten(1))


def CifarResNet20(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    return without_weights("CifarResNet20", CifarResNet(3, **kwargs), pretrained)


def CifarResNet32(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    return without_weights("CifarResNet32", CifarResNet(5, **kwargs), pretrained)


def CifarResNet56(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    return without_weights("CifarResNet56", CifarResNet(9, **kwargs), pretrained)


def CifarResNet110(pretrained: bool | str = False, use_ssld: bool = False, **kwargs: Any) -> nn.Layer:
    return without_weights("CifarResNet110", CifarResNet(18, **kwargs), pretrained)
