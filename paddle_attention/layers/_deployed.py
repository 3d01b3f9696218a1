"""Forms of operations for exported graphs: the same numbers, by kernels that keep the layout of accelerated maps.

Deployed networks keep channels last inside. A pooling or a convolution stays in that layout; a reduction, an expansion or a
division has the whole map copied to another one and back, or falls to a kernel ten times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ._ops import is_known, size_of


def reduce_deployed(reduce: Callable[..., Any], x: Tensor, axis: int) -> Tensor:
    """``reduce`` (``paddle.mean`` or ``paddle.max``) along one of the axes 1, 2, 3, kept."""
    length = x.shape[axis]
    if axis == 1:
        if reduce is paddle.mean:
            return F.conv2d(x, paddle.full([1, length, 1, 1], 1.0 / length, dtype=x.dtype))
    elif is_known(length):
        pool = F.avg_pool2d if reduce is paddle.mean else F.max_pool2d
        return pool(x, (length, 1) if axis == 2 else (1, length))
    y = reduce(x.transpose([0, 2, 3, 1]), axis={1: 3, 2: 1, 3: 2}[axis], keepdim=True)
    return y.transpose([0, 3, 1, 2])


def max_over_pixels_deployed(x: Tensor) -> Tensor:
    """``[N, C, H, W] -> [N, C, 1, 1]`` maximum."""
    if is_known(*x.shape[2:]):
        return F.max_pool2d(x, x.shape[2:])
    return paddle.max(x.flatten(2), axis=-1, keepdim=True).unsqueeze(-1)


def expand_gate(gate: Tensor, x: Tensor) -> Tensor:
    """A gate with axes of size 1 in the shape of ``x``.

    The deployed network multiplies maps of one shape quickly; where one is expanded over
    a row or a column it falls to a kernel four times slower.
    """
    channels = x.shape[1]
    if gate.shape[1] == 1:
        return F.conv2d(gate, paddle.ones([channels, 1, 1, 1], dtype=gate.dtype))
    return gate.expand([-1, channels, *size_of(x, (2, 3))])
