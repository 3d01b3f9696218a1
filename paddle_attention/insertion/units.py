"""The repeated units of a network without residual blocks: what takes the place of its blocks."""

from __future__ import annotations

from collections.abc import Iterable

from paddle import nn

from .trace import Call, Trace


def repeated_units(trace: Trace) -> list[Call]:
    """The first calls of the outermost layers whose class has several members that hold convolutions.

    Where these have more than one convolution, layers with just one (a stem, a transition) do not
    count. A network that is written without classes of its own has its convolutions as units.
    """
    calls: dict[str, Call] = {}
    for call in trace.calls:
        if call.name and len(call.shape) == 4 and max(call.shape[2:]) > 1:
            calls.setdefault(call.name, call)
    convolutions = {name: _convolutions(trace.layers[name]) for name in calls}
    own = [
        n for n in calls if convolutions[n] and not type(trace.layers[n]).__module__.startswith("paddle.nn.")
    ]
    kinds = [type(trace.layers[name]) for name in own]
    units = _outermost(name for name in own if kinds.count(type(trace.layers[name])) > 1)
    if any(convolutions[name] > 1 for name in units):
        units = [name for name in units if convolutions[name] > 1]
    elif not units:
        units = [name for name in calls if isinstance(trace.layers[name], nn.Conv2D)]
    return [calls[name] for name in sorted(units, key=trace.order.index)]


def _convolutions(layer: nn.Layer) -> int:
    return sum(isinstance(x, nn.Conv2D) for x in layer.sublayers(include_self=True))


def _outermost(names: Iterable[str]) -> list[str]:
    """Those of the names that lie in no other of them."""
    found: list[str] = []
    for name in sorted(names, key=lambda n: n.count(".")):
        if not any(name.startswith(other + ".") for other in found):
            found.append(name)
    return found
