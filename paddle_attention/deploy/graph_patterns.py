"""What the operations of an exported graph compute, as far as the rewriting of graphs needs to know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F

CONV, NORM, ADD, PARAMETER = "pd_op.conv2d", "pd_op.batch_norm_", "pd_op.add", "builtin.parameter"


@dataclass(frozen=True)
class Linear:
    """A map that is, at every position, ``normalise(weight source + bias)``; None where one is missing."""

    source: Any
    weight: Any
    bias: Any = None
    norm: Any = None

    def is_same(self, other: Linear | None) -> bool:
        """Whether both are of the same operations."""
        if other is None:
            return False
        pairs = [(self.source, other.source), (self.weight, other.weight), (self.bias, other.bias)]
        pairs.append((self._normalised, other._normalised))
        return all(b is None if a is None else b is not None and a.is_same(b) for a, b in pairs)

    @property
    def _normalised(self) -> Any:
        return None if self.norm is None else self.norm.result(0)

    def after(self, kernel: Any) -> tuple[Any, Any]:
        """Matrix ``K W`` and vector ``K b``, or None for 0, for a kernel ``K`` ``[M, C]``: operations on parameters."""
        matrix, shift = self.weight.flatten(1), None if self.bias is None else self.bias.flatten()
        if self.norm is not None:
            mean, variance, scale, bias = (self.norm.operand_source(i) for i in range(1, 5))
            scale = scale / paddle.sqrt(variance + self.norm.attrs()["epsilon"])
            shift = bias - mean * scale if shift is None else bias + (shift - mean) * scale
            matrix = matrix * scale.unsqueeze(-1)
        return paddle.matmul(kernel, matrix), None if shift is None else paddle.matmul(
            kernel, shift.unsqueeze(-1)
        )


def name_of(value: Any) -> str:
    op = value.get_defining_op()
    return "" if op is None else str(op.name())


def constant(value: Any) -> Any:
    """The number or numbers that a value is, or None."""
    op = value.get_defining_op()
    return (
        op.attrs()["value"]
        if op is not None and op.name() in ("pd_op.full", "pd_op.full_int_array")
        else None
    )


def is_pointwise(op: Any) -> bool:
    attributes = op.attrs()
    return (
        name_of(op.operand_source(1)) == PARAMETER
        and list(op.operand_source(1).shape[2:]) == [1, 1]
        and attributes["groups"] == 1
        and list(attributes["strides"]) == [1, 1]
        and not any(attributes["paddings"])
        and attributes["padding_algorithm"] == "EXPLICIT"
        and attributes["data_format"] == "NCHW"
    )


def is_bias(op: Any) -> bool:
    """Whether it adds a parameter ``[C]`` in the shape ``[1, C, 1, 1]``."""
    if op.name() != ADD or name_of(op.operand_source(1)) != "pd_op.reshape":
        return False
    shape = op.operand_source(1).shape
    inner = op.operand_source(1).get_defining_op().operand_source(0)
    channels = op.result(0).shape[1] if len(op.result(0).shape) == 4 else None
    return name_of(inner) == PARAMETER and list(shape) == [1, channels, 1, 1]


def bias_of(op: Any) -> Any:
    """The addition of a bias that is all that reads a convolution, or None."""
    if not op.result(0).has_one_use():
        return None
    (reader,) = op.result(0).all_used_ops()
    return reader if is_bias(reader) and reader.operand_source(0).is_same(op.result(0)) else None


def _is_frozen(op: Any) -> bool:
    """Whether a normalisation is one of channels, by its running statistics."""
    attributes = op.attrs()
    own = attributes["is_test"] and not attributes["trainable_statistics"]
    whole = op.num_operands() == 5 and all(op.operand_source(i).initialized() for i in range(5))
    return own and whole and attributes["data_format"] == "NCHW"


def _linear(value: Any) -> Linear | None:
    """What a map is of a map before it, if between the two is a 1x1 convolution with a bias, a normalisation, or both."""
    op, norm, bias = value.get_defining_op(), None, None
    if op is not None and op.name() == NORM and _is_frozen(op):
        norm, op = op, op.operand_source(0).get_defining_op()
    if op is not None and is_bias(op):
        bias, op = op.operand_source(1), op.operand_source(0).get_defining_op()
    if op is None or op.name() != CONV or not is_pointwise(op):
        return None
    return Linear(op.operand_source(0), op.operand_source(1), bias, norm)


def _before(value: Any) -> Any:
    """The map before the convolution of what :func:`_linear` knows."""
    linear = _linear(value)
    assert linear is not None, value
    return linear.source


def sources_of(value: Any) -> Iterator[Linear | None]:
    """The maps whose averages, rearranged, ``value`` is; None for what is anything else."""
    op = value.get_defining_op()
    if op is None:
        yield None
    elif _is_average(op) or _swaps_positions(op):
        yield from sources_of(op.operand_source(0))
    elif op.name() == "pd_op.concat" and _joins_positions(op):
        for part in op.operand_source(0).get_defining_op().operands_source():
            yield from sources_of(part)
    else:
        yield _linear(value)


def rebuild(value: Any) -> Any:
    """``value``, which :func:`sources_of` has accepted, of the maps before the convolutions; of weighted averages without the factor."""
    op = value.get_defining_op()
    if is_weighted_average(op):
        y, weights = weighted_parts(value)
        return F.adaptive_avg_pool2d(rebuild(y) * weights, 1)
    if _is_average(op):
        inner = rebuild(op.operand_source(0))
        if op.attrs()["adaptive"]:
            return F.adaptive_avg_pool2d(inner, 1)
        return F.avg_pool2d(inner, constant(op.operand_source(1)), list(op.attrs()["strides"]))
    if _swaps_positions(op):
        return rebuild(op.operand_source(0)).transpose([0, 1, 3, 2])
    if op.name() == "pd_op.concat":
        parts = op.operand_source(0).get_defining_op().operands_source()
        return paddle.concat([rebuild(part) for part in parts], axis=int(constant(op.operand_source(1))))
    return _before(value)


def _is_average(op: Any) -> bool:
    """Whether it is an average pooling without a border: of a constant it is the constant."""
    if op.name() != "pd_op.pool2d":
        return False
    attributes, kernel = op.attrs(), constant(op.operand_source(1))
    return (
        attributes["pooling_type"] == "avg"
        and kernel is not None
        and not any(attributes["paddings"])
        and not attributes["ceil_mode"]
        and not attributes["global_pooling"]
        and attributes["data_format"] == "NCHW"
        and attributes["padding_algorithm"] == "EXPLICIT"
        and (not attributes["adaptive"] or list(kernel) == [1, 1])
    )


def _swaps_positions(op: Any) -> bool:
    return op.name() == "pd_op.transpose" and list(op.attrs()["perm"]) == [0, 1, 3, 2]


def _joins_positions(op: Any) -> bool:
    return constant(op.operand_source(1)) in (2, 3) and name_of(op.operand_source(0)) == "builtin.combine"


def is_weighted_average(op: Any) -> bool:
    """Whether it is ``H W`` times the average of the products of a map and a softmax over positions."""
    if op is None or op.name() != "pd_op.scale" or op.attrs()["bias"] != 0:
        return False
    pool = op.operand_source(0).get_defining_op()
    if pool is None or not _is_average(pool) or not pool.attrs()["adaptive"]:
        return False
    product = pool.operand_source(0)
    if len(product.shape) != 4 or min(product.shape[2:]) < 0:
        return False  # a size that the graph does not know
    if name_of(product) != "pd_op.multiply" or constant(op.operand_source(1)) != math.prod(product.shape[2:]):
        return False
    weights = product.get_defining_op().operand_source(1)
    if name_of(weights) != "pd_op.reshape" or weights.shape[1] != 1:
        return False
    softmax = weights.get_defining_op().operand_source(0)
    flat = list(softmax.shape[1:])
    return (
        name_of(softmax) == "pd_op.softmax"
        and softmax.get_defining_op().attrs()["axis"] in (-1, 2)
        and flat == [1, math.prod(product.shape[2:])]
    )


def weighted_parts(value: Any) -> tuple[Any, Any]:
    """The map and the weights of :func:`is_weighted_average`."""
    product = value.get_defining_op().operand_source(0).get_defining_op().operand_source(0).get_defining_op()
    return product.operand_source(0), product.operand_source(1)
