"""Operations of one call of an operator, as functions of shapes alone.

Every function takes the operator's arguments with a shape (a tuple) in the place of each tensor, and
``out``, the shape of what it returns. Other arguments of the operator do not matter to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Shape = Sequence[int]


def convolution(x: Shape, weight: Shape, *_: Any, out: Shape) -> int:
    """Multiply-adds: each number of the output takes as many products as one filter has weights."""
    return math.prod(out) * math.prod(weight[1:])


def transposed_convolution(x: Shape, weight: Shape, *_: Any, out: Shape) -> int:
    """Multiply-adds: each number of the input goes into as many products as one filter has weights."""
    return math.prod(x) * math.prod(weight[1:])


def fully_connected(x: Shape, weight: Shape, *_: Any, out: Shape) -> int:
    """Multiply-adds of a weight ``[in, out]``."""
    return math.prod(out) * weight[0]


def product(
    x: Shape,
    y: Shape,
    transpose_x: bool = False,
    transpose_y: bool = False,
    *_: Any,
    out: Shape,
) -> int:
    """Multiply-adds of a matrix product, of any number of batch axes."""
    shared = x[-2] if transpose_x and len(x) > 1 else x[-1]
    return math.prod(out) * shared


def einstein_sum(operands: Sequence[Shape], equation: str, *_: Any, out: Shape) -> int:
    """Multiply-adds of all operands at once: one product less than there are operands, for every index."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        label: size
        for term, shape in zip(terms, operands, strict=True)
        for label, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values()) * (len(terms) - 1)


def read(x: Shape, *_: Any, out: Shape) -> int:
    """The numbers of the input, for pooling."""
    return math.prod(x)


def written(*_: Any, out: Shape) -> int:
    """The numbers of the output, for what is done number by number."""
    return math.prod(out)
