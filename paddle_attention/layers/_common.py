"""What the layers share: argument checks, convolutions with a chosen start, precision, shapes."""

import contextlib
import functools
import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.framework import in_dynamic_or_pir_mode

HALF = (paddle.float16, paddle.bfloat16)


def _only_looks(method):
    """``method`` that leaves the running statistics as they are, also in train mode."""

    @functools.wraps(method)
    def look(self, *args, **kwargs):
        statistics = [
            t
            for layer in self.sublayers()
            for t in (getattr(layer, "_mean", None), getattr(layer, "_variance", None))
            if self.training and isinstance(t, paddle.Tensor)
        ]
        before = [t.clone() for t in statistics]
        try:
            return method(self, *args, **kwargs)
        finally:
            for t, value in zip(statistics, before):
                t.set_value(value)

    return look


class AttentionLayer(nn.Layer):
    """Base of the layers here: no control flow of theirs depends on values.

    So ``paddle.jit.to_static`` need not rewrite their code, only run it; in it a size
    that is not known is -1.
    """

    def __init_subclass__(cls):
        super().__init_subclass__()
        if "forward" in vars(cls):
            paddle.jit.not_to_static(cls.forward)
        if "attention_maps" in vars(cls):
            cls.attention_maps = _only_looks(cls.attention_maps)


# --- checks ------------------------------------------------------------------------------


def check_feature_map(layer_name, x, channels, rank=4):
    """Raise ValueError unless ``x`` is ``[N, channels, ...]`` with ``rank`` axes.

    In a static graph an axis of unknown size is -1 and passes.
    """
    shape = list(x.shape)
    if len(shape) != rank:
        axes = ", ".join(["N", "C", "D", "H", "W"][:2] + ["D", "H", "W"][5 - rank :])
        raise ValueError(
            f"{layer_name} takes a {rank}-D feature map [{axes}], but got shape {shape} "
            f"({len(shape)}-D); reshape the input to {rank}-D first"
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


def check_pair(layer_name, name, value):
    """``value`` as a tuple of two positive ints; raise ValueError if it is not that."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{layer_name}: {name} must be (H, W), but got {value!r}")
    for size in value:
        check_positive_int(layer_name, **{name: size})
    return tuple(value)


def check_odd(layer_name, name, value):
    """Raise ValueError unless the kernel size ``value`` is odd and so can keep H and W."""
    check_positive_int(layer_name, **{name: value})
    if value % 2 == 0:
        raise ValueError(
            f"{layer_name}: {name} must be odd to keep the size, but got {value}; "
            f"use {value - 1} or {value + 1}"
        )


def check_choice(layer_name, name, value, choices):
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{layer_name}: {name} must be one of {sorted(choices)}, but got {value!r}")


def check_divides(layer_name, channels, **parts):
    """Raise ValueError unless every one of ``parts`` divides ``channels``."""
    check_positive_int(layer_name, channels=channels, **parts)
    for name, value in parts.items():
        if channels % value:
            near = [d for d in range(1, channels + 1) if channels % d == 0]
            near = min(near, key=lambda d: abs(d - value))
            raise ValueError(
                f"{layer_name}: channels={channels} is not divisible by {name}={value}; try {name}={near}"
            )


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
            f"choose reduction <= {channels}"
        )
    return channels // reduction


# --- layers with a chosen start ----------------------------------------------------------


def constant(value):
    """Parameter attribute: start from ``value``."""
    return paddle.ParamAttr(initializer=nn.initializer.Constant(value))


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
        bias_attr=constant(0.0) if bias else False,
    )


def conv(in_channels, out_channels, kernel_size=1, bias=True, cls=nn.Conv2D, zero=False, **options):
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


def batch_norm(channels, momentum=0.1, cls=nn.BatchNorm2D, zero=False):
    """Batch normalisation; ``momentum`` is the weight of the new value, as in PyTorch."""
    return cls(
        channels,
        momentum=1.0 - momentum,
        epsilon=1e-5,
        weight_attr=constant(0.0 if zero else 1.0),
        bias_attr=constant(0.0),
    )


def start_from_zero(*parameters):
    """Set ``parameters`` (None is skipped) to 0, for a gate of 2 * sigmoid(0) = 1."""
    for parameter in parameters:
        if parameter is not None:
            nn.initializer.Constant(0.0)(parameter)


# --- precision ---------------------------------------------------------------------------


def full_precision():
    """Context in which automatic mixed precision is off.

    For energies, softmax and sums of squares, which overflow or lose too much in half precision.
    """
    # Paddle 2.6 takes no such context in a static graph.
    return paddle.amp.auto_cast(enable=False) if in_dynamic_or_pir_mode() else contextlib.nullcontext()


def widen(x):
    """``x`` in float32 if it is half precision, else ``x`` itself."""
    return x.astype("float32") if x.dtype in HALF else x


# --- shapes ------------------------------------------------------------------------------


def is_deployed(layer):
    """Whether ``layer`` is being traced for inference, where only the forward pass matters."""
    return not layer.training and not paddle.in_dynamic_mode()


def size_of(x, axes):
    """Sizes of ``x`` along ``axes``, as integers, or as tensors where a static graph does not know them."""
    known = [x.shape[axis] for axis in axes]
    if paddle.in_dynamic_mode() or all(isinstance(n, int) and n >= 0 for n in known):
        return known
    shape = paddle.shape(x)
    return [n if isinstance(n, int) and n >= 0 else shape[axis] for n, axis in zip(known, axes)]


def split_channels(x, parts):
    """``parts`` equal groups of channels. By slices: the accelerated split fails on a second size."""
    width = x.shape[1] // parts
    return [x[:, i * width : (i + 1) * width] for i in range(parts)]


def weighted_sum(maps, weights):
    """Sum of ``maps`` ``[N, C, H, W]``, each with its own of ``weights`` ``[N, maps, C, 1, 1]``."""
    total = None
    for x, weight in zip(maps, paddle.unbind(weights, axis=1)):
        total = x * weight if total is None else total + x * weight
    return total


def count_positions(x):
    """H * W of ``[N, C, H, W]`` as a number, or as a tensor where a static graph does not know it."""
    height, width = size_of(x, (2, 3))
    count = height * width
    return float(count) if isinstance(count, int) else count.astype(x.dtype)


def unbiased(x):
    """What turns a mean of squares over positions into the unbiased variance; 1 for a single position."""
    count = count_positions(x)
    return count / ((count - 1.0).clip(min=1.0) if paddle.is_tensor(count) else max(count - 1.0, 1.0))


def unflatten_like(y, x):
    """``[N, C, L] -> [N, C, *x.shape[2:]]``: give flattened positions the spatial axes of ``x``."""
    return y.reshape([0, y.shape[1], *size_of(x, range(2, len(x.shape)))])


def spread(gate, x):
    """A gate with axes of size 1 in the shape of ``x``.

    The deployed network multiplies maps of one shape quickly; where one is spread over
    a row or a column it falls to a kernel four times slower.
    """
    return gate.expand([-1, x.shape[1], *size_of(x, (2, 3))])


def max_over(x, axis):
    """Maximum along an axis, kept, with a backward of O(numel), where that of ``paddle.max`` costs far more."""
    if x.dtype in HALF:  # not every device has half-precision kernels; the cast is exact both ways
        return max_over(x.astype("float32"), axis).astype(x.dtype)
    return paddle.take_along_axis(x, paddle.argmax(x, axis=axis, keepdim=True), axis=axis)


def reduce_deployed(reduce, x, axis):
    """``reduce`` (``paddle.mean`` or ``paddle.max``) along one of the axes 1, 2, 3, kept.

    Deployed networks keep channels last inside, and reduce such a map faster.
    """
    y = reduce(x.transpose([0, 2, 3, 1]), axis={1: 3, 2: 1, 3: 2}[axis], keepdim=True)
    return y.transpose([0, 3, 1, 2])


def resize(x, size, align_corners):
    """Bilinear interpolation to ``size``, integers or tensors."""
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    # Of three axes, the first of size 1: the accelerated kernel of two takes no sizes that are tensors.
    x = F.interpolate(
        x.unsqueeze(2), size=[1, *size], mode="trilinear", align_corners=align_corners, data_format="NCDHW"
    )
    return x.squeeze(2)


def resize_nearest(x, size):
    """Nearest-neighbour interpolation to ``size``, integers or tensors."""
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=size, mode="nearest")
    for axis, new in zip((2, 3), size):
        old = size_of(x, (axis,))[0]
        x = paddle.index_select(x, paddle.arange(0, new) * old // new, axis=axis)
    return x
