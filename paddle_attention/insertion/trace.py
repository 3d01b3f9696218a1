"""One forward pass of a network, recorded call by call. It knows nothing of what is asked for."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from ..trial import trial
from .hooks import backbone_layers

_LARGEST = 8192
_HOOKS_TAKE_KEYWORDS = "with_kwargs" in inspect.signature(nn.Layer.register_forward_pre_hook).parameters
PROBE_SIZES = (64, 224, 112, 256, 384, 32)


@dataclass
class Call:
    """One call of a layer: the graph nodes of its inputs and outputs.

    Attributes:
        name: dotted name of the layer.
        inputs, outputs: gradient-graph nodes of its tensors.
        shape, input_shape: of its output and of its first input; empty where that is not one tensor.
        children: the calls made in it.
    """

    name: str
    inputs: list
    outputs: list
    shape: list
    children: list
    input_shape: list

    @property
    def size(self) -> int:
        """The number of elementary calls in it."""
        return sum(child.size for child in self.children) or 1


class Trace:
    """The calls of one forward pass.

    Attributes:
        model (paddle.nn.Layer): the network.
        input_shape (list of int): ``[C, H, W]`` of the image; None where ``inputs`` were given.
        inputs: the network's own inputs, if any were given.
        dtype: of the network's weights.
        layers (dict): dotted names to layers, without attention.
        calls (list of Call): in order of completion.
        order (list of str): layer names in order of first call.
    """

    def __init__(
        self, model: nn.Layer, input_shape: list[int] | None, dtype: Any, inputs: Any = None
    ) -> None:
        self.model, self.input_shape, self.dtype, self.inputs = model, input_shape, dtype, inputs
        self.title = type(model).__name__
        self.layers = backbone_layers(model)
        self.calls: list[Call] = []
        self.order: list[str] = []
        self._stack: list[Call] = []
        self._tensors: list[
            tuple[Any, Any]
        ] = []  # keeps the graph nodes alive, so that their addresses stay unique

    # recording

    def enter(self, name: str, inputs: Any) -> None:
        """A layer is called."""
        if name not in self.order:
            self.order.append(name)
        shape = list(inputs[0].shape) if inputs and isinstance(inputs[0], paddle.Tensor) else []
        call = Call(name, self._nodes(inputs), [], [], [], shape)
        if self._stack:
            self._stack[-1].children.append(call)
        self._stack.append(call)

    def leave(self, output: Any) -> None:
        """The layer called last, of those still running, returns."""
        call = self._stack.pop()
        call.outputs = self._nodes(output)
        if isinstance(output, paddle.Tensor):
            call.shape = list(output.shape)
        self.calls.append(call)

    def _nodes(self, value: Any) -> list[Any]:
        nodes = []
        for tensor in paddle.utils.flatten(value):
            if isinstance(tensor, paddle.Tensor) and tensor.grad_fn is not None:
                node = tensor.grad_fn
                self._tensors.append((tensor, node))
                nodes.append(node)
        return nodes

    def release(self) -> None:
        """Free what the gradient graph holds; its nodes stay to be read.

        ``Tensor.grad_fn`` returns a reference that Paddle never gives back: without this, the
        weights would outlive the network. Going backward frees them.
        """
        roots, visited = [], set()
        for tensor, node in reversed(self._tensors):
            if node.node_ptr() not in visited:
                roots.append(tensor)
            pending = [node]
            while pending:
                node = pending.pop()
                if node.node_ptr() not in visited:
                    visited.add(node.node_ptr())
                    pending.extend(operands(node))
        with contextlib.suppress(Exception):  # an operator of the network without a gradient
            paddle.autograd.backward(roots)

    # reading

    def count(self, name: str) -> int:
        """How often layer ``name`` ran."""
        return sum(call.name == name for call in self.calls)


def operands(node: Any) -> list[Any]:
    """The nodes that a gradient-graph node leads to."""
    return [n for n in node.next_functions if n is not None]


def trace_network(model: nn.Layer, input_shape: Sequence[int] | None = None, inputs: Any = None) -> Trace:
    """A :class:`Trace` of ``model`` on ``inputs``, an image of ``input_shape``, or the first of some sizes it takes.

    Raises:
        ValueError: if it is no network for images in NCHW, or does not run on what it is given.
    """
    if not paddle.in_dynamic_mode():
        raise ValueError("attention is inserted in dynamic mode; call paddle.disable_static() before")
    if not isinstance(model, nn.Layer):
        raise ValueError(f"model must be a paddle.nn.Layer, but got {type(model).__name__}")
    for name, layer in model.named_sublayers():
        if getattr(layer, "_data_format", "NCHW") == "NHWC":
            raise ValueError(
                f"layer {name!r} computes in NHWC; attention layers take NCHW, so build the network "
                "with data_format='NCHW'"
            )
    for name, layer in model.named_sublayers(include_self=True):
        if is_static(layer):
            raise ValueError(
                f"{name or 'the network'!r} was converted by paddle.jit.to_static, and its layers cannot be seen; insert "
                "attention before the conversion"
            )
    if inputs is not None:
        if not any(isinstance(x, paddle.Tensor) for x in paddle.utils.flatten(inputs)):
            raise ValueError(
                f"inputs must hold tensors: one, a dict such as {{'image': x}}, or a tuple of several arguments; but "
                f"got {type(inputs).__name__} without any"
            )
        if input_shape is not None:
            raise ValueError("give either input_shape or inputs, not both")
        return run_trace(model, None, inputs)
    if input_shape is not None:
        check_input_shape(input_shape)
        return run_trace(model, list(input_shape))
    first = next((layer._in_channels for layer in model.sublayers() if isinstance(layer, nn.Conv2D)), 3)
    errors = []
    for channels in dict.fromkeys((first, 3)):  # the first convolution defined need not be the first run
        for size in PROBE_SIZES:
            try:
                return run_trace(model, [channels, size, size])
            except Exception as error:  # the network's own, of any kind
                errors.append(f"[{channels}, {size}, {size}]: {last_line(error)}")
    raise ValueError(
        f"{type(model).__name__} does not run on a trial image; give input_shape=[C, H, W], or inputs=. "
        f"Tried {'; '.join(_few(errors))}"
    )


def check_input_shape(value: Any) -> None:
    """Raise ValueError unless ``value`` is ``[C, H, W]``."""
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or any(isinstance(v, bool) or not isinstance(v, int) or not 0 < v <= _LARGEST for v in value):
        raise ValueError(
            f"input_shape must be [C, H, W], three positive integers up to {_LARGEST}, but got {value!r}"
        )


def is_static(layer: nn.Layer) -> bool:
    """Whether ``paddle.jit.to_static`` has made a program of the layer."""
    return type(layer.forward).__name__.endswith("StaticFunction")


def _few(errors: list[str]) -> list[str]:
    """The first of each reason, at most three, cut: the others say the same of other sizes."""
    reasons: dict[str, str] = {}
    for error in errors:
        reasons.setdefault(re.sub(r"\d+", "", error), error if len(error) < 120 else f"{error[:117]}...")
    more = f"{len(reasons) - 3} more reasons"
    return [*list(reasons.values())[:3], *([more] if len(reasons) > 3 else [])]


def last_line(error: BaseException) -> str:
    """Where Paddle says what is wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def run_trace(model: nn.Layer, input_shape: list[int] | None, inputs: Any = None) -> Trace:
    """A :class:`Trace` of one forward pass on ``inputs``, or else on an image of ``input_shape``."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), paddle.float32)
    trace = Trace(model, input_shape, dtype, inputs)
    with trial(model) as handles:
        for name, layer in trace.layers.items():
            handles.append(
                _before(layer, lambda _, x, keywords, name=name: trace.enter(name, (*x, *keywords.values())))
            )
            layer._forward_pre_hooks.move_to_end(handles[-1]._hook_id, last=False)
            handles.append(layer.register_forward_post_hook(lambda _, x, y: trace.leave(y)))
        with _no_weight_gradients(model), paddle.enable_grad():
            try:
                model(*_tracked(paddle.full([1, *input_shape], 0.5, dtype) if input_shape else inputs))
            finally:
                trace.release()
    return trace


def _before(layer: nn.Layer, hook: Callable[..., None]) -> Any:
    """Have ``hook(layer, arguments, keyword arguments)`` called before a layer; Paddle 2 tells nothing of the latter."""
    if _HOOKS_TAKE_KEYWORDS:
        return layer.register_forward_pre_hook(hook, with_kwargs=True)
    return layer.register_forward_pre_hook(lambda layer, arguments: hook(layer, arguments, {}))


def _tracked(inputs: Any) -> tuple[Any, ...]:
    """The arguments of a call, a tuple of several or one, with tensors of numbers that have a graph node each."""

    def track(value: Any) -> Any:
        if isinstance(value, paddle.Tensor) and value.is_floating_point():
            value = value.detach()
            value.stop_gradient = False
            return value * 1.0  # a leaf has no graph node; its multiple has
        return value

    return tuple(paddle.utils.map_structure(track, inputs if isinstance(inputs, tuple) else (inputs,)))


@contextlib.contextmanager
def _no_weight_gradients(model: nn.Layer) -> Iterator[None]:
    """The gradients that parameters have are none of a trial's business."""
    trained = [p for p in model.parameters() if not p.stop_gradient]
    try:
        for parameter in trained:
            parameter.stop_gradient = True
        yield
    finally:
        for parameter in trained:
            parameter.stop_gradient = False
