"""Activated batch normalisation, which several segmentation papers build on."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ._base import AttentionLayer, TorchKeys
from ._init import batch_norm, constant, conv
from ._ops import is_deployed


class ABN(AttentionLayer):
    """Batch normalisation, then leaky ReLU of slope 0.01 (``InPlaceABN``).

    Args:
        channels (int): channels of the input.
        momentum (float): weight of the new value in the running statistics.
        abs_gamma (bool): scale by ``|weight| + 1e-5`` as the InPlaceABN kernel does,
            and not by ``weight`` as its Python reference.
    """

    def __init__(self, channels: int, momentum: float = 0.1, abs_gamma: bool = False) -> None:
        super().__init__()
        self.abs_gamma = abs_gamma
        if abs_gamma:
            self.bn = nn.BatchNorm2D(channels, 1.0 - momentum, 1e-5, weight_attr=False, bias_attr=False)
            self.weight = self.create_parameter([channels], attr=constant(1.0))
            self.bias = self.create_parameter([channels], attr=constant(0.0))
        else:
            self.bn = batch_norm(channels, momentum)

    def torch_keys(self) -> TorchKeys:
        if self.abs_gamma:
            return {"authors": {"bn._mean": "running_mean", "bn._variance": "running_var"}}
        return {"authors": {"bn": ""}}

    def forward(self, x: Tensor) -> Tensor:
        shape = [1, -1, 1, 1]
        if not self.abs_gamma:
            y = self.bn(x)
        elif is_deployed(self):  # Paddle Inference cannot fuse a normalisation without a scale
            scale = (paddle.abs(self.weight) + 1e-5) / paddle.sqrt(self.bn._variance + 1e-5)
            y = (x - self.bn._mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)
        else:
            y = self.bn(x) * (paddle.abs(self.weight) + 1e-5).reshape(shape) + self.bias.reshape(shape)
        if is_deployed(self):  # the accelerated convolution crashes with a leaky ReLU fused to it
            return paddle.maximum(y, 0.01 * y)
        return F.leaky_relu(y, 0.01)


def conv_abn(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    bias: bool = True,
    momentum: float = 0.1,
    abs_gamma: bool = False,
    **options: Any,
) -> nn.Layer:
    """A convolution and :class:`ABN`."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel_size, bias, **options), ABN(out_channels, momentum, abs_gamma)
    )
