"""Operations that several layers need: precision, shapes, reductions, interpolation."""

from __future__ import annotations

import contextlib
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.framework import in_dynamic_or_pir_mode


def skew(mask: Tensor, size: Any) -> Tensor:
    """``[..., size, M] -> [..., size, size]``: entry (i, j) is ``mask[i, j - i + (M - 1) // 2]``, or 0.

    That is, maps relative to each position become maps of absolute positions.

    Rows are padded to 2 * size and read again as rows of 2 * size - 1, which
    moves every row one step against the one before: no index of every entry is needed.
    """
    known, width = list(mask.shape[:-2]), mask.shape[-1]
    lead = size_of(mask, range(len(known)))
    offset = paddle.arange(0, 2 * size - 1) + ((width - 1) // 2 + 1 - size)
    covered = (offset >= 0) & (offset < width)
    mask = paddle.index_select(mask, paddle.clip(offset, 0, width - 1), axis=-1)
    mask = mask * covered.astype(mask.dtype)
    zeros = paddle.zeros_like(mask[..., :1])
    flat = paddle.concat([mask, zeros], axis=-1).flatten(-2)
    flat = paddle.slice(flat, [len(known)], [size - 1], [2 * size * size - 1])
    return flat.reshape([*lead, size, 2 * size - 1])[..., :size]


HALF = (paddle.float16, paddle.bfloat16)


def full_precision() -> Tensor:
    """Context in which automatic mixed precision is off.

    For attention scores, softmax and sums of squares, which overflow or lose too much in half precision.
    """
    # Paddle 2.6 takes no such context in a static graph.
    return paddle.amp.auto_cast(enable=False) if in_dynamic_or_pir_mode() else contextlib.nullcontext()


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 if it is half precision, else ``x`` itself."""
    return x.astype("float32") if x.dtype in HALF else x


def is_deployed(layer: nn.Layer) -> bool:
    """Whether ``layer`` is being traced for inference, where only the forward pass matters."""
    return not layer.training and not paddle.in_dynamic_mode()


def is_known(*sizes: Any) -> bool:
    """Whether a static graph knows these sizes."""
    return all(isinstance(n, int) and n >= 0 for n in sizes)


def size_of(x: Tensor, axes: Any) -> list[Tensor]:
    """Sizes of ``x`` along ``axes``, as integers, or as tensors where a static graph does not know them."""
    known = [x.shape[axis] for axis in axes]
    if paddle.in_dynamic_mode() or is_known(*known):
        return known
    shape = paddle.shape(x)
    return [n if is_known(n) else shape[axis] for n, axis in zip(known, axes)]


def split_channels(x: Tensor, parts: int) -> list[Tensor]:
    """``parts`` equal groups of channels. By slices: the accelerated split fails on a second size."""
    width = x.shape[1] // parts
    return [x[:, i * width : (i + 1) * width] for i in range(parts)]


def weighted_sum(maps: list[Tensor], weights: Tensor) -> Tensor:
    """Sum of ``maps`` ``[N, C, H, W]``, each with its own of ``weights`` ``[N, maps, C, 1, 1]``."""
    total = None
    for x, weight in zip(maps, paddle.unbind(weights, axis=1)):
        total = x * weight if total is None else total + x * weight
    return total


def count_positions(x: Tensor) -> Tensor:
    """H * W of ``[N, C, H, W]`` as a number, or as a tensor where a static graph does not know it."""
    height, width = size_of(x, (2, 3))
    count = height * width
    return float(count) if isinstance(count, int) else count.astype(x.dtype)


def unbiased(x: Tensor) -> Tensor:
    """Bessel's correction, n / (n - 1) for n positions; 1 for a single one."""
    count = count_positions(x)
    return count / ((count - 1.0).clip(min=1.0) if paddle.is_tensor(count) else max(count - 1.0, 1.0))


def affine(x: Tensor, scale: Any, bias: float) -> Tensor:
    """``x * scale + bias`` by one operation where ``scale`` is a number: each costs a deployed network more than it computes."""
    return x * scale + bias if paddle.is_tensor(scale) else paddle.scale(x, scale, bias)


def unflatten_like(y: Tensor, x: Tensor) -> Tensor:
    """``[N, C, L] -> [N, C, *x.shape[2:]]``: give flattened positions the spatial axes of ``x``."""
    return y.reshape([0, y.shape[1], *size_of(x, range(2, len(x.shape)))])


def max_over(x: Tensor, axis: int) -> Tensor:
    """Maximum along an axis, kept, with a backward of O(numel), where that of ``paddle.max`` costs far more."""
    if x.dtype in HALF:  # not every device has half-precision kernels; the cast is exact both ways
        return max_over(x.astype("float32"), axis).astype(x.dtype)
    return paddle.take_along_axis(x, paddle.argmax(x, axis=axis, keepdim=True), axis=axis)


def average_grid(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of ``[N, C, H, W]`` to ``size``.

    Where a static graph does not know that the cells are of one size, by means of slices: paddle2onnx refuses such a
    pooling of a free size, and gives wrong numbers for cells of several. (Products with pooling matrices are wrong in oneDNN.)
    """
    even = is_known(*x.shape[2:]) and all(n % k == 0 for n, k in zip(x.shape[2:], size))
    if paddle.in_dynamic_mode() or even:
        return F.adaptive_avg_pool2d(x, size)
    height, width = size_of(x, (2, 3))
    rows = [x[:, :, a:b].mean(axis=2, keepdim=True) for a, b in _cells(height, size[0])]
    x = paddle.concat(rows, axis=2)
    return paddle.concat(
        [x[:, :, :, a:b].mean(axis=3, keepdim=True) for a, b in _cells(width, size[1])], axis=3
    )


def _cells(length: Any, count: int) -> list[tuple[Any, Any]]:
    """First position and end of each cell: from i length / count, rounded down, to (i + 1) length / count, up."""
    return [(i * length // count, ((i + 1) * length + count - 1) // count) for i in range(count)]


def resize(x: Tensor, size: list[Any], align_corners: bool) -> Tensor:
    """Bilinear interpolation to ``size``, integers or tensors."""
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    # Of three axes, the first of size 1: the accelerated kernel of two takes no sizes that are tensors.
    x = F.interpolate(
        x.unsqueeze(2), size=[1, *size], mode="trilinear", align_corners=align_corners, data_format="NCDHW"
    )
    return x.squeeze(2)


def resize_nearest(x: Tensor, size: list[Any]) -> Tensor:
    """Nearest-neighbour interpolation to ``size``, integers or tensors."""
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=size, mode="nearest")
    for axis, new in zip((2, 3), size):
        old = size_of(x, (axis,))[0]
        x = paddle.index_select(x, paddle.arange(0, new) * old // new, axis=axis)
    return x


def hard_sigmoid(v: Tensor) -> Tensor:
    """relu6(v + 3) / 6; ``F.hardsigmoid`` rounds the slope 1/6 to seven digits."""
    return F.relu6(v + 3.0) / 6.0
