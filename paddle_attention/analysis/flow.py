"""The data flow of a layer, read off a real run: operations, and the shapes between them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops, nn

from ..trial import trial
from ._operators import replaced

# Operators of Python's on tensors, which Paddle runs without its table of operators.
_METHODS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "subtract",
    "__rsub__": "subtract",
    "__mul__": "multiply",
    "__rmul__": "multiply",
    "__truediv__": "divide",
    "__rtruediv__": "divide",
    "__pow__": "power",
    "__getitem__": "slice",
    "__neg__": "negative",
}
# Of these the numbers are the same and only their places change; several in a row are drawn as one.
_MOVES = {"reshape", "transpose", "flatten", "unsqueeze", "squeeze", "t", "view_shape"}
# Of their input they take the shape alone.
_SHAPES = {"full_like", "ones_like", "zeros_like", "shape", "shape64", "numel"}
# They pass on what they are given.
_NOTHING = {"expand", "expand_as", "cast", "assign", "dropout", "scale", "clip", "contiguous", "expand_v2"}


@dataclass
class Node:
    """One operation.

    Attributes:
        kind: Paddle's name of the operator, or the class of a layer of ``paddle.nn``; ``'input'`` and ``'output'``.
        detail: what else is worth saying, such as ``'7x7, 2→1'``.
        shape: of its result.
        sources: the numbers of the nodes that it takes, in their order.
        where: dotted name of the sublayer in whose forward it runs; empty in the layer's own.
    """

    kind: str
    detail: str
    shape: tuple[int, ...]
    sources: list[int] = field(default_factory=list)
    where: str = field(default="", compare=False)


def trace_flow(layer: nn.Layer, shape: Iterable[int], whole: tuple[type, ...] = ()) -> list[Node]:
    """Run ``layer`` once in eval mode and return its operations in their order.

    A layer of ``paddle.nn`` is one operation, with all it does inside. What does not depend on
    the input, or on which the output does not depend, is left out.

    Args:
        layer (paddle.nn.Layer): takes one tensor.
        shape (iterable of int): of the input.
        whole (tuple of type): further classes of sublayers that are one operation each.

    Returns:
        list of :class:`Node`; the first is the input, the last the output.
    """
    recorder = _Recorder()
    # Not of Paddle's generator: who looks at a layer does not change what it draws next.
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal(list(shape)).astype("float32"))
    recorder.add("input", "", x, ())
    with trial(layer) as handles:
        for name, sublayer in layer.named_sublayers():
            handles.append(
                sublayer.register_forward_pre_hook(lambda *_, name=name: recorder.path.append(name))
            )
            is_leaf = type(sublayer).__module__.startswith("paddle.nn") and not sublayer._sub_layers
            if is_leaf or isinstance(sublayer, whole):
                handles.append(sublayer.register_forward_pre_hook(recorder.enter))
                handles.append(sublayer.register_forward_post_hook(recorder.leave))
            handles.append(sublayer.register_forward_post_hook(lambda *_: _none(recorder.path.pop())))
        layer.eval()
        with paddle.no_grad(), _recording(recorder):
            output = layer(x)
    outputs = output if isinstance(output, (list, tuple)) else (output,)
    recorder.add("output", "", outputs[0], outputs)
    return _simplify(recorder.nodes)


class _Recorder:
    """Which node made which tensor."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.made: dict[int, int] = {}
        self.places: dict[int, int] = {}
        self.kept: list[Any] = []
        self.depth = 0
        self.path = [""]  # the sublayers that run, from the outermost

    def add(self, kind: str, detail: str, results: Any, inputs: Iterable[Any]) -> None:
        sources = [n for n in map(self.find, _tensors(inputs)) if n is not None]
        results = list(_tensors([results]))
        if not results or kind in _SHAPES or (kind != "input" and not sources):
            return
        self.nodes.append(Node(kind, detail, tuple(results[0].shape), sources, self.path[-1]))
        for result in results:
            self.made[id(result)] = len(self.nodes) - 1
            if result._is_initialized():
                self.places[result.data_ptr()] = len(self.nodes) - 1
        self.kept.append(results)  # so that no other tensor gets its number

    def find(self, tensor: Tensor) -> int | None:
        """The node that made ``tensor``; one that an autograd function was handed is another object of its memory."""
        found = self.made.get(id(tensor))
        if found is None and not isinstance(tensor, paddle.base.framework.EagerParamBase):
            found = self.places.get(tensor.data_ptr()) if tensor._is_initialized() else None
        return found

    def enter(self, layer: nn.Layer, inputs: Any) -> None:
        self.depth += 1

    def leave(self, layer: nn.Layer, inputs: Any, output: Any) -> None:
        self.depth -= 1
        if self.depth:
            return
        self.add(type(layer).__name__, _detail_of_layer(layer), output, inputs)


def _none(value: Any) -> None:
    """A hook that returns something would replace the output."""


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, paddle.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _recording(recorder: _Recorder) -> contextlib.AbstractContextManager[None]:
    """While in it, every operator that runs outside of a layer of ``paddle.nn`` is a node."""

    def recorded(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            recorder.depth += 1
            try:
                result = function(*arguments, **options)
            finally:
                recorder.depth -= 1
            if recorder.depth == 0:
                values = [*arguments, *options.values()]
                recorder.add(kind, _detail_of_operator(kind, values), result, values)
            return result

        return call

    names = [name for name in dir(_C_ops) if not name.startswith("_") and callable(getattr(_C_ops, name))]
    kinds = {(_C_ops, name): name.rstrip("_") for name in names}
    kinds |= {(paddle.Tensor, name): kind for name, kind in _METHODS.items() if hasattr(paddle.Tensor, name)}
    return replaced((operator, functools.partial(recorded, kind=kind)) for operator, kind in kinds.items())


def _detail_of_layer(layer: nn.Layer) -> str:
    weight = getattr(layer, "weight", None)
    if weight is None:
        return ""
    if isinstance(layer, nn.Linear):
        return f"{weight.shape[0]}→{weight.shape[1]}"
    if hasattr(layer, "_kernel_size"):
        size = list(weight.shape[2:])
        groups = getattr(layer, "_groups", 1)
        text = f"{'x'.join(map(str, size))}, {layer._in_channels}→{layer._out_channels}"
        return f"{text}, groups {groups}" if groups > 1 else text
    return ""


def _detail_of_operator(kind: str, values: list[Any]) -> str:
    tensors = list(_tensors(values))
    if kind.endswith("conv2d") and len(tensors) > 1:
        weight = tensors[1].shape
        return f"{weight[2]}x{weight[3]}, {tensors[0].shape[1]}→{weight[0]}"
    axes = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    if kind in ("softmax", "concat", "argmax", "stack", "mean", "sum", "max") and axes:
        return f"轴 {axes[0]}"
    lists = [v for v in values if isinstance(v, (list, tuple)) and v and all(isinstance(a, int) for a in v)]
    if kind in ("mean", "sum", "max", "transpose") and lists:
        return f"轴 {', '.join(map(str, lists[0]))}"
    return ""


def _simplify(nodes: list[Node]) -> list[Node]:
    """Without what does nothing, and with the idioms for a maximum as one node."""
    forward = list(range(len(nodes)))  # by which node each is replaced
    for number, node in enumerate(nodes):
        node.sources = [forward[s] for s in node.sources]
        first = node.sources[0] if node.sources else None
        if node.kind in _NOTHING and first is not None and len(node.sources) == 1:
            forward[number] = first
        elif node.kind in _MOVES and first is not None and nodes[first].kind in _MOVES | {"move"}:
            node.sources = list(nodes[first].sources)
        elif (
            node.kind == "take_along_axis"
            and len(node.sources) > 1
            and nodes[node.sources[1]].kind == "argmax"
        ):
            node.kind, node.detail = "max", nodes[node.sources[1]].detail
            node.sources = node.sources[:1]
        if node.kind in _MOVES:
            node.kind = "move"
    return _reachable(nodes)


def _reachable(nodes: list[Node]) -> list[Node]:
    """The nodes on a way from the input to the output, renumbered."""
    wanted, waiting = set(), [len(nodes) - 1]
    while waiting:
        number = waiting.pop()
        if number not in wanted:
            wanted.add(number)
            waiting += nodes[number].sources
    order = sorted(wanted | {0})
    places = {old: new for new, old in enumerate(order)}
    return [
        Node(n.kind, n.detail, n.shape, list(dict.fromkeys(places[s] for s in n.sources)), n.where)
        for n in (nodes[number] for number in order)
    ]
