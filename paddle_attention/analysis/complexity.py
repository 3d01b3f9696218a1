"""Parameters and multiply-adds of a network, counted the way papers count them."""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor, _C_ops, nn

from ..layers import AttentionLayer
from ..trial import trial
from . import counts
from ._operators import replaced
from .countings import COUNTINGS


@dataclass(frozen=True)
class Complexity:
    """What :func:`count_complexity` found.

    Attributes:
        params: number of trainable numbers.
        statistics: number of running means and variances.
        work: operations by kind: ``conv`` and ``matmul`` in multiply-adds; ``norm``,
            ``activation``, ``pool``, ``global_pool``, ``multiply`` (of a map by a gate or
            another map) and ``add`` (of maps, outside attention) in numbers written, or read
            for pooling. ``constant_conv``, sums written as convolutions, is in no counting.
    """

    params: int
    statistics: int = 0
    work: dict = field(default_factory=dict)

    def flops(self, counting: str = "macs") -> float:
        """The sum under one of :data:`COUNTINGS`.

        Raises:
            ValueError: for an unknown counting.
        """
        if counting not in COUNTINGS:
            raise ValueError(f"counting must be one of {list(COUNTINGS)}, but got {counting!r}")
        return COUNTINGS[counting](collections.Counter(self.work))


_CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv3d")
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "prelu", "elu")
_NORMALISATIONS = (
    "batch_norm",
    "batch_norm_",
    "sync_batch_norm_",
    "layer_norm",
    "group_norm",
    "instance_norm",
)
_OPERATORS: dict[str, tuple[str, Callable[..., int]]] = {
    **dict.fromkeys(_CONVOLUTIONS, ("conv", counts.convolution)),
    "conv2d_transpose": ("conv", counts.transposed_convolution),
    "depthwise_conv2d_transpose": ("conv", counts.transposed_convolution),
    "linear": ("matmul", counts.fully_connected),
    "matmul": ("matmul", counts.product),
    "bmm": ("matmul", counts.product),
    "einsum": ("matmul", counts.einstein_sum),
    **dict.fromkeys(_NORMALISATIONS, ("norm", counts.written)),
    **dict.fromkeys(_ACTIVATIONS, ("activation", counts.written)),
    "pool2d": ("pool", counts.read),
    "max_pool2d_with_index": ("pool", counts.read),
    "multiply": ("multiply", counts.written),
    "add": ("add", counts.written),
}
_METHODS: dict[str, tuple[str, Callable[..., int]]] = {
    "__mul__": ("multiply", counts.written),
    "__rmul__": ("multiply", counts.written),
    "__add__": ("add", counts.written),
    "__radd__": ("add", counts.written),
    "__matmul__": ("matmul", counts.product),
}


def _are_maps(x: Tensor, y: Any) -> bool:
    return all(isinstance(value, paddle.Tensor) and len(value.shape) >= 3 for value in (x, y))


# When a kind counts: products with constants and additions of biases are no work of their own.
_COUNTED_IF = {
    "multiply": _are_maps,
    "add": lambda x, y: _are_maps(x, y) and x.shape == y.shape,
}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) else value


def _shapes(value: Any) -> Any:
    """``value`` with the shape of every tensor in its place."""
    if isinstance(value, (list, tuple)):
        return [_shapes(item) for item in value]
    return tuple(value.shape) if isinstance(value, paddle.Tensor) else value


def _counting(
    work: dict[str, dict[str, int]], running: list[tuple[str, bool]]
) -> contextlib.AbstractContextManager[None]:
    """While in it, every operator of the table adds to ``work`` of the innermost of the layers that are ``running``.

    ``running`` holds their names, and whether they are attention.
    """

    def counted(function: Any, kind: str, cost: Callable[..., Any]) -> Callable[..., Any]:
        taken = inspect.signature(cost).parameters

        def call(*arguments: Any, **options: Any) -> Any:
            output = function(*arguments, **options)
            result = _first(output)
            here = kind
            if kind == "pool" and list(result.shape[2:]) == [1] * len(result.shape[2:]):
                here = "global_pool"
            if kind == "conv" and not isinstance(arguments[1], paddle.base.framework.EagerParamBase):
                here = "constant_conv"  # a sum written as a convolution, no weights of the network
            if kind == "add" and any(attention for _, attention in running):
                return output
            if kind not in _COUNTED_IF or _COUNTED_IF[kind](*[*arguments, *options.values()][:2]):
                shapes = {name: _shapes(value) for name, value in options.items() if name in taken}
                shapes["out"] = _shapes(result)
                own = work.setdefault(running[-1][0], {})
                own[here] = own.get(here, 0) + cost(*_shapes(arguments), **shapes)
            return output

        return call

    entries = [((_C_ops, name), *entry) for name, entry in _OPERATORS.items() if hasattr(_C_ops, name)]
    entries += [((paddle.Tensor, name), *entry) for name, entry in _METHODS.items()]
    return replaced(
        (operator, functools.partial(counted, kind=kind, cost=cost)) for operator, kind, cost in entries
    )


def work_by_layer(network: nn.Layer, input_shape: Sequence[int] = (3, 224, 224)) -> dict[str, dict[str, int]]:
    """Run ``network`` once on one image and count what each layer does by itself, not in its sublayers.

    Args:
        network (paddle.nn.Layer): any network that takes one image batch. Operators other than
            those of the kinds above are not work: there is no counting in which they are.
        input_shape (list of int): ``[C, H, W]``.

    Returns:
        dict: names of layers (``''`` for the network itself) to operations by kind.
    """
    work: dict[str, dict[str, int]] = {}
    running: list[tuple[str, bool]] = [("", False)]

    def start(name: str, layer: nn.Layer) -> Callable[..., None]:
        return lambda *_: running.append((name, isinstance(layer, AttentionLayer)))

    def stop(*_: Any) -> None:
        running.pop()

    with trial(network) as handles:
        for name, layer in network.named_sublayers(include_self=True):
            handles.append(layer.register_forward_pre_hook(start(name, layer)))
            handles.append(layer.register_forward_post_hook(stop))
        with paddle.no_grad(), _counting(work, running):
            network(paddle.zeros([1, *input_shape]))
    return work


def count_complexity(network: nn.Layer, input_shape: Sequence[int] = (3, 224, 224)) -> Complexity:
    """Run ``network`` once on one image and count; see :func:`work_by_layer`.

    Returns:
        :class:`Complexity`.
    """
    work: collections.Counter[str] = collections.Counter()
    for own in work_by_layer(network, input_shape).values():
        work.update(own)
    params = sum(int(p.size) for p in network.parameters() if p.trainable)
    # PaddleClas' networks keep their statistics as parameters, others as buffers.
    statistics = sum(
        int(v.size) for k, v in network.state_dict().items() if k.endswith(("._mean", "._variance"))
    )
    return Complexity(params, statistics, dict(work))
