"""The repeated units of a network without residual blocks: what takes the place of its blocks."""

from __future__ import annotations

from collections.abc import Iterable

from paddle import nn

from .trace import Call, Trace


def repeated_units(trace: Trace) -> list[Call]:
    """The first calls of the outermost layers whose class has several members that hold convolutions.

    Where some classes have more than one convolution, those with just one (a stem, a transition) do not
    count; what stands in a list among units is one as well. A network that is written without
    classes of its own has its convolutions as units.
    """
    calls: dict[str, Call] = {}
    for call in trace.calls:
        if call.name and len(call.shape) == 4:
            calls.setdefault(call.name, call)
    sizes = {name: _convolutions(trace.layers[name]) for name in calls}
    own: dict[type, list[str]] = {}
    for name in calls:
        kind = type(trace.layers[name])
        if sizes[name] and not kind.__module__.startswith("paddle.nn."):
            own.setdefault(kind, []).append(name)
    units = _outermost(name for names in own.values() if len(names) > 1 for name in names)
    large = {kind for kind, names in own.items() if max(map(sizes.__getitem__, names)) > 1}
    if any(type(trace.layers[name]) in large for name in units):
        units = [name for name in units if type(trace.layers[name]) in large]
        lists = {name.rpartition(".")[0] for name in units if name.rpartition(".")[2].isdigit()}
        among = (name for names in own.values() for name in names if sizes[name] > 1)
        units = _outermost([*units, *(n for n in among if n.rpartition(".")[0] in lists and n not in units)])
    elif not units:
        convolutions = [name for name in calls if isinstance(trace.layers[name], nn.Conv2D)]
        units = [name for name in convolutions if max(calls[name].shape[2:]) > 1]
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
