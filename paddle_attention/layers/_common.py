"""What every plug-in layer shares: argument checks and the fluid initialiser."""

import math

import paddle
from paddle import nn


def check_feature_map(layer_name, x, channels):
    """Raise ValueError unless ``x`` is a ``[N, channels, H, W]`` tensor.

    In a static graph an axis of unknown size is -1 and passes.
    """
    shape = list(x.shape)
    if len(shape) != 4:
        raise ValueError(
            f"{layer_name} takes a 4-D feature map [N, C, H, W], but got shape {shape} "
            f"({len(shape)}-D); reshape the input to 4-D first"
        )
    if shape[1] not in (-1, channels):
        raise ValueError(
            f"{layer_name} was built for channels={channels}, but got an input of shape {shape} "
            f"with {shape[1]} channels; build it with channels={shape[1]} (inputs are NCHW)"
        )


def check_positive_int(layer_name, **values):
    """Raise ValueError naming the first argument that is not a positive int."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{layer_name}: {name} must be a positive integer, but got {value!r}")


def hidden_width(layer_name, channels, reduction, hidden_channels=None):
    """Width of the bottleneck: ``hidden_channels`` if given, else ``channels // reduction``."""
    check_positive_int(layer_name, channels=channels)
    if hidden_channels is not None:
        check_positive_int(layer_name, hidden_channels=hidden_channels)
        return hidden_channels
    check_positive_int(layer_name, reduction=reduction)
    if reduction > channels:
        raise ValueError(
            f"{layer_name}: channels={channels} // reduction={reduction} leaves no hidden channel; "
            f"choose reduction <= {channels} or give hidden_channels"
        )
    return channels // reduction


def fan_in_uniform(fan_in):
    """Uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialiser of the fluid SE block."""
    bound = 1.0 / math.sqrt(fan_in)
    return nn.initializer.Uniform(-bound, bound)


def pointwise(in_channels, out_channels, bias):
    """A 1x1 convolution used as a fully connected layer over channels.

    Kept 4-D because the deployed network then needs no reshape around it.
    """
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size=1,
        weight_attr=paddle.ParamAttr(initializer=fan_in_uniform(in_channels)),
        bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)) if bias else False,
    )
