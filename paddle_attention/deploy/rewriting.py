"""Cheaper forms of an exported graph: the same numbers from smaller maps, and additions that convolutions take in.

Attention mostly stands behind a 1x1 convolution and its normalisation, ``y = W o + b`` at every position. Then

- an average of ``y`` over positions is ``W`` times that of ``o``, which has a quarter of the channels in a bottleneck, plus ``b``;
  and where a 1x1 convolution ``K`` of it follows, this is ``(K W)`` times that of ``o``, plus ``K b``: nothing reads ``y``;
- ``(y + v) + r``, with a vector ``v`` and the block's shortcut ``r``, is ``(y + r) + v``: engines add ``r`` within the convolution.

Products of weights are written as operations on parameters, which engines compute once, when they load the graph.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F

_MOST = 17  # more parts than anything joins
_CONV, _NORM, _ADD = "pd_op.conv2d", "pd_op.batch_norm_", "pd_op.add"
_PARAMETER, _INPUT, _OUTPUT = "builtin.parameter", "pd_op.data", "pd_op.fetch"


@dataclass(frozen=True)
class _Linear:
    """A map that is, at every position, ``normalise(weight source + bias)``; None where one is missing."""

    source: Any
    weight: Any
    bias: Any = None
    norm: Any = None

    def is_same(self, other: _Linear | None) -> bool:
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


def rewrite_saved(path: str) -> int:
    """Rewrite the program that ``paddle.jit.save`` has written to ``path`` (without ending); how many places were changed.

    What Paddle 2 has written stays as it is.
    """
    if not os.path.exists(path + ".json"):
        return 0
    paddle.enable_static()
    try:
        with paddle.static.scope_guard(paddle.static.Scope()):
            executor = paddle.static.Executor(paddle.CPUPlace())
            program, _, _ = paddle.static.load_inference_model(path, executor)
            count = rewrite_graph(program)
            if count:
                ops = program.global_block().ops
                inputs = [op.result(0) for op in ops if op.name() == _INPUT]
                outputs = [op.operand_source(0) for op in ops if op.name() == _OUTPUT]
                paddle.static.save_inference_model(path, inputs, outputs, executor, program=program)
            return count
    finally:
        paddle.disable_static()


def rewrite_graph(program: Any) -> int:
    """Rewrite a program of Paddle 3 (``paddle.static.Program``), in static mode; how many places were changed."""
    with paddle.static.program_guard(program):
        block = program.global_block()
        count = sum(_commute(op) for op in list(block.ops) if op.name() == _CONV)
        _remove_unused(block)  # which read what an addition may now have for itself
        count += sum(_add_shortcut_first(op) for op in list(block.ops) if op.name() == _ADD)
        _remove_unused(block)
    return count


def _commute(op: Any) -> int:
    """Let a 1x1 convolution of averages of ``y`` read those of ``o``; 1 if it was changed."""
    if not _is_pointwise(op):
        return 0
    kernel, averages = op.operand_source(1), op.operand_source(0)
    weighted = _is_weighted_average(averages.get_defining_op())
    sources = list(itertools.islice(_sources(_weighted(averages)[0] if weighted else averages), _MOST))
    if len(sources) == _MOST:
        return 0
    linear = sources[0]
    if linear is None or not all(linear.is_same(source) for source in sources):
        return 0
    if linear.weight.shape[1] >= linear.weight.shape[0]:
        return 0  # o has no fewer channels
    bias_op = _bias_of(op)
    paddle.pir.set_insertion_point(bias_op or op)
    matrix, shift = linear.after(kernel.flatten(1))
    if shift is not None:
        shift = shift.reshape([1, -1, 1, 1])
    if bias_op is not None:  # one addition, which engines compute within the convolution
        bias = bias_op.operand_source(1)
        shift = bias if shift is None else bias + shift
    if weighted:  # its factor goes into the weights
        matrix = matrix * _constant(averages.get_defining_op().operand_source(1))
    result = F.conv2d(_rebuild(averages), matrix.unsqueeze([2, 3]))
    if shift is not None:
        result = result + shift
    (bias_op or op).result(0).replace_all_uses_with(result)
    return 1


def _name(value: Any) -> str:
    op = value.get_defining_op()
    return "" if op is None else str(op.name())


def _is_pointwise(op: Any) -> bool:
    attributes = op.attrs()
    return (
        _name(op.operand_source(1)) == _PARAMETER
        and list(op.operand_source(1).shape[2:]) == [1, 1]
        and attributes["groups"] == 1
        and list(attributes["strides"]) == [1, 1]
        and not any(attributes["paddings"])
        and attributes["padding_algorithm"] == "EXPLICIT"
        and attributes["data_format"] == "NCHW"
    )


def _is_bias(op: Any) -> bool:
    """Whether it adds a parameter ``[C]`` in the shape ``[1, C, 1, 1]``."""
    if op.name() != _ADD or _name(op.operand_source(1)) != "pd_op.reshape":
        return False
    shape = op.operand_source(1).shape
    inner = op.operand_source(1).get_defining_op().operand_source(0)
    channels = op.result(0).shape[1] if len(op.result(0).shape) == 4 else None
    return _name(inner) == _PARAMETER and list(shape) == [1, channels, 1, 1]


def _bias_of(op: Any) -> Any:
    """The addition of a bias that is all that reads a convolution, or None."""
    if not op.result(0).has_one_use():
        return None
    (reader,) = op.result(0).all_used_ops()
    return reader if _is_bias(reader) and reader.operand_source(0).is_same(op.result(0)) else None


def _before(value: Any) -> Any:
    """The map before the convolution of what :func:`_linear` knows."""
    linear = _linear(value)
    assert linear is not None, value
    return linear.source


def _linear(value: Any) -> _Linear | None:
    """What a map is of a map before it, if between the two is a 1x1 convolution with a bias, a normalisation, or both."""
    op, norm, bias = value.get_defining_op(), None, None
    if op is not None and op.name() == _NORM and _is_frozen(op):
        norm, op = op, op.operand_source(0).get_defining_op()
    if op is not None and _is_bias(op):
        bias, op = op.operand_source(1), op.operand_source(0).get_defining_op()
    if op is None or op.name() != _CONV or not _is_pointwise(op):
        return None
    return _Linear(op.operand_source(0), op.operand_source(1), bias, norm)


def _is_frozen(op: Any) -> bool:
    """Whether a normalisation is one of channels, by its running statistics."""
    attributes = op.attrs()
    own = attributes["is_test"] and not attributes["trainable_statistics"]
    return own and attributes["data_format"] == "NCHW" and op.num_operands() == 5


def _sources(value: Any) -> Iterator[_Linear | None]:
    """The maps whose averages, rearranged, ``value`` is; None for what is anything else."""
    op = value.get_defining_op()
    if op is None:
        yield None
    elif _is_average(op) or _swaps_positions(op):
        yield from _sources(op.operand_source(0))
    elif op.name() == "pd_op.concat" and _joins_positions(op):
        for part in op.operand_source(0).get_defining_op().operands_source():
            yield from _sources(part)
    else:
        yield _linear(value)


def _rebuild(value: Any) -> Any:
    """``value``, which :func:`_sources` has accepted, of the maps before the convolutions; of weighted averages without the factor."""
    op = value.get_defining_op()
    if _is_weighted_average(op):
        y, weights = _weighted(value)
        return F.adaptive_avg_pool2d(_rebuild(y) * weights, 1)
    if _is_average(op):
        inner = _rebuild(op.operand_source(0))
        if op.attrs()["adaptive"]:
            return F.adaptive_avg_pool2d(inner, 1)
        return F.avg_pool2d(inner, _constant(op.operand_source(1)), list(op.attrs()["strides"]))
    if _swaps_positions(op):
        return _rebuild(op.operand_source(0)).transpose([0, 1, 3, 2])
    if op.name() == "pd_op.concat":
        parts = op.operand_source(0).get_defining_op().operands_source()
        return paddle.concat([_rebuild(part) for part in parts], axis=int(_constant(op.operand_source(1))))
    return _before(value)


def _constant(value: Any) -> Any:
    """The number or numbers that a value is, or None."""
    op = value.get_defining_op()
    return (
        op.attrs()["value"]
        if op is not None and op.name() in ("pd_op.full", "pd_op.full_int_array")
        else None
    )


def _is_average(op: Any) -> bool:
    """Whether it is an average pooling without a border: of a constant it is the constant."""
    if op.name() != "pd_op.pool2d":
        return False
    attributes, kernel = op.attrs(), _constant(op.operand_source(1))
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
    return _constant(op.operand_source(1)) in (2, 3) and _name(op.operand_source(0)) == "builtin.combine"


def _is_weighted_average(op: Any) -> bool:
    """Whether it is ``H W`` times the average of the products of a map and a softmax over positions."""
    if op is None or op.name() != "pd_op.scale" or op.attrs()["bias"] != 0:
        return False
    pool = op.operand_source(0).get_defining_op()
    if pool is None or not _is_average(pool) or not pool.attrs()["adaptive"]:
        return False
    product = pool.operand_source(0)
    if _name(product) != "pd_op.multiply" or _constant(op.operand_source(1)) != math.prod(product.shape[2:]):
        return False
    weights = product.get_defining_op().operand_source(1)
    if _name(weights) != "pd_op.reshape" or weights.shape[1] != 1:
        return False
    softmax = weights.get_defining_op().operand_source(0)
    flat = list(softmax.shape[1:])
    return (
        _name(softmax) == "pd_op.softmax"
        and softmax.get_defining_op().attrs()["axis"] in (-1, 2)
        and flat == [1, math.prod(product.shape[2:])]
    )


def _weighted(value: Any) -> tuple[Any, Any]:
    """The map and the weights of :func:`_is_weighted_average`."""
    product = value.get_defining_op().operand_source(0).get_defining_op().operand_source(0).get_defining_op()
    return product.operand_source(0), product.operand_source(1)


def _add_shortcut_first(op: Any) -> int:
    """``(y + v) + r`` as ``(y + r) + v`` where ``y`` is of a convolution and ``v`` a vector; 1 if it was changed."""
    for number in (0, 1):
        first, shortcut = op.operand_source(number), op.operand_source(1 - number)
        inner = first.get_defining_op()
        if inner is None or inner.name() != _ADD or not first.has_one_use():
            continue
        y, vector = inner.operand_source(0), inner.operand_source(1)
        is_vector = len(vector.shape) == 4 and list(vector.shape[1:]) == [first.shape[1], 1, 1]
        if not is_vector or _is_bias(inner) or list(shortcut.shape) != list(y.shape):
            continue
        if _name(y) not in (_CONV, _NORM, _ADD) or not y.has_one_use():
            continue
        paddle.pir.set_insertion_point(op)
        op.result(0).replace_all_uses_with((y + shortcut) + vector)
        return 1
    return 0


def _remove_unused(block: Any) -> None:
    """Remove what nothing reads any more, from the end on."""
    for op in reversed(list(block.ops)):
        kept = op.name() in (_INPUT, _OUTPUT)
        if not kept and op.results() and all(result.use_empty() for result in op.results()):
            block.remove_op(op)
