"""Initialisers, and layers with an initialiser."""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import nn


def constant(value: float) -> paddle.ParamAttr:
    """Parameter attribute: start from ``value``."""
    return paddle.ParamAttr(initializer=nn.initializer.Constant(value))


def fan_in_uniform(fan_in: int) -> nn.initializer.Initializer:
    """Uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialiser of the fluid SE block."""
    bound = 1.0 / math.sqrt(fan_in)
    return nn.initializer.Uniform(-bound, bound)


def pointwise(in_channels: int, out_channels: int, bias: bool) -> nn.Layer:
    """A 1x1 convolution used as a fully connected layer over channels.

    Kept 4-D because the deployed network then needs no reshape around it.
    """
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size=1,
        weight_attr=paddle.ParamAttr(initializer=fan_in_uniform(in_channels)),
        bias_attr=constant(0.0) if bias else False,
    )


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    bias: bool = True,
    cls: type = nn.Conv2D,
    zero: bool = False,
    **options: Any,
) -> nn.Layer:
    """A convolution whose weights and bias start as in the authors' PyTorch.

    There the default is Uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both.
    ``zero`` starts both from 0 instead.
    """
    rank = {nn.Conv1D: 1, nn.Conv2D: 2, nn.Conv3D: 3}[cls]
    sizes = [kernel_size] * rank if isinstance(kernel_size, int) else list(kernel_size)
    fan_in = in_channels // options.get("groups", 1) * math.prod(sizes)
    initializer = nn.initializer.Constant(0.0) if zero else fan_in_uniform(fan_in)
    return cls(
        in_channels,
        out_channels,
        kernel_size,
        weight_attr=paddle.ParamAttr(initializer=initializer),
        bias_attr=paddle.ParamAttr(initializer=initializer) if bias else False,
        **options,
    )


def batch_norm(
    channels: int, momentum: float = 0.1, cls: type = nn.BatchNorm2D, zero: bool = False
) -> nn.Layer:
    """Batch normalisation; ``momentum`` is the weight of the new value, as in PyTorch."""
    return cls(
        channels,
        momentum=1.0 - momentum,
        epsilon=1e-5,
        weight_attr=constant(0.0 if zero else 1.0),
        bias_attr=constant(0.0),
    )


def start_from_zero(*parameters: Any) -> None:
    """Set ``parameters`` (None is skipped) to 0, for a gate of 2 * sigmoid(0) = 1."""
    for parameter in parameters:
        if parameter is not None:
            nn.initializer.Constant(0.0)(parameter)
