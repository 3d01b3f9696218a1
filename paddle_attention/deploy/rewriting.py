"""Cheaper forms of an exported graph: the same numbers from smaller maps, and additions that convolutions take in.

Attention mostly stands behind a 1x1 convolution and its normalisation, ``y = W o + b`` at every position. Then

- an average of ``y`` over positions is ``W`` times that of ``o``, which has a quarter of the channels in a bottleneck, plus ``b``;
  and where a 1x1 convolution ``K`` of it follows, this is ``(K W)`` times that of ``o``, plus ``K b``: nothing reads ``y``;
- ``(y + v) + r``, with a vector ``v`` and the block's shortcut ``r``, is ``(y + r) + v``: engines add ``r`` within the convolution.

Products of weights are written as operations on parameters, which engines compute once, when they load the graph.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import paddle
import paddle.nn.functional as F

from .graph_patterns import (
    ADD,
    CONV,
    NORM,
    bias_of,
    constant,
    is_bias,
    is_pointwise,
    is_weighted_average,
    name_of,
    rebuild,
    sources_of,
    weighted_parts,
)

_MOST = 17  # more parts than anything joins
_INPUT, _OUTPUT = "pd_op.data", "pd_op.fetch"


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
        count = sum(_commute(op) for op in list(block.ops) if op.name() == CONV)
        _remove_unused(block)  # which read what an addition may now have for itself
        count += sum(_add_shortcut_first(op) for op in list(block.ops) if op.name() == ADD)
        _remove_unused(block)
    return count


def _commute(op: Any) -> int:
    """Let a 1x1 convolution of averages of ``y`` read those of ``o``; 1 if it was changed."""
    if not is_pointwise(op):
        return 0
    kernel, averages = op.operand_source(1), op.operand_source(0)
    weighted = is_weighted_average(averages.get_defining_op())
    sources = list(itertools.islice(sources_of(weighted_parts(averages)[0] if weighted else averages), _MOST))
    if len(sources) == _MOST:
        return 0
    linear = sources[0]
    if linear is None or not all(linear.is_same(source) for source in sources):
        return 0
    if linear.weight.shape[1] >= linear.weight.shape[0]:
        return 0  # o has no fewer channels
    bias_op = bias_of(op)
    paddle.pir.set_insertion_point(bias_op or op)
    matrix, shift = linear.after(kernel.flatten(1))
    if shift is not None:
        shift = shift.reshape([1, -1, 1, 1])
    if bias_op is not None:  # one addition, which engines compute within the convolution
        bias = bias_op.operand_source(1)
        shift = bias if shift is None else bias + shift
    if weighted:  # its factor goes into the weights
        matrix = matrix * constant(averages.get_defining_op().operand_source(1))
    result = F.conv2d(rebuild(averages), matrix.unsqueeze([2, 3]))
    if shift is not None:
        result = result + shift
    (bias_op or op).result(0).replace_all_uses_with(result)
    return 1


def _add_shortcut_first(op: Any) -> int:
    """``(y + v) + r`` as ``(y + r) + v`` where ``y`` is of a convolution and ``v`` a vector; 1 if it was changed."""
    for number in (0, 1):
        first, shortcut = op.operand_source(number), op.operand_source(1 - number)
        inner = first.get_defining_op()
        if inner is None or inner.name() != ADD or not first.has_one_use():
            continue
        y, vector = inner.operand_source(0), inner.operand_source(1)
        is_vector = len(vector.shape) == 4 and list(vector.shape[1:]) == [first.shape[1], 1, 1]
        if not is_vector or is_bias(inner) or list(shortcut.shape) != list(y.shape):
            continue
        if name_of(y) not in (CONV, NORM, ADD) or not y.has_one_use():
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
