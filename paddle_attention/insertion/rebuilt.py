"""Layers that merge their branches into one convolution for deployment: attention inside would be lost."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import paddle
from paddle import nn

from ..trial import trial
from .request import PlaceError
from .trace import Trace

if TYPE_CHECKING:
    from .placement import Target

# The names by which networks do it: PaddleClas, PaddleDetection, and ports from PyTorch.
_METHODS = (
    "re_parameterize",
    "reparameterize",
    "switch_to_deploy",
    "convert_to_deploy",
    "merge_bn",
    "rep",
    "fuse",
)


def check_survival(trace: Trace, targets: Sequence[Target]) -> None:
    """Raise ValueError for a target inside a layer whose re-parameterisation would drop the attention there.

    Whether it would is tried on a copy of that layer.
    """
    lost: dict[str, set[str]] = {}
    for target in targets:
        parts = target.layer.split(".")
        for depth in range(len(parts)):
            owner, inside = ".".join(parts[:depth]), ".".join(parts[depth:])
            method = _method(trace.layers.get(owner))
            if method is None:
                continue
            if owner not in lost:
                lost[owner] = _lost_layers(trace, owner, method)
            if inside in lost[owner]:
                raise PlaceError(
                    f"layer {target.layer!r} of {trace.title} disappears when {owner or 'the network'!r} merges its "
                    f"branches for deployment ({method}()), and attention on it would be lost; put it on "
                    f"{owner or 'another layer'!r}, such as with at='block'"
                )


def _method(layer: nn.Layer | None) -> str | None:
    """The method of ``layer`` that rebuilds it; None where it has none that needs no argument."""
    for name in _METHODS:
        method = getattr(layer, name, None)
        if inspect.ismethod(method):
            parameters = inspect.signature(method).parameters.values()
            if all(
                p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
            ):
                return name
    return None


def _lost_layers(trace: Trace, owner: str, method: str) -> set[str]:
    """Names of the layers in ``owner`` that ran and no longer run once it is rebuilt."""
    prefix = f"{owner}." if owner else ""
    inside = {name.removeprefix(prefix) for name in trace.order if name.startswith(prefix)} - {""}
    shape = next((call.input_shape for call in trace.calls if call.name == owner), [])
    rebuilt = copy.deepcopy(trace.layers[owner])
    ran: set[str] = set()
    with paddle.no_grad(), trial(rebuilt) as handles:
        try:
            # On the layers as they are before: another one of the same name has not their attention.
            for name, layer in rebuilt.named_sublayers():
                handles.append(layer.register_forward_pre_hook(lambda *_, name=name: ran.add(name)))
            getattr(rebuilt, method)()
            rebuilt.eval()
            given = (
                trace.inputs
                if not owner and trace.inputs is not None
                else paddle.zeros(shape, dtype=trace.dtype)
            )
            rebuilt(*(given if isinstance(given, tuple) else (given,)))
        except Exception:  # its own, of any kind: then nothing tells that anything inside stays
            return inside
    return inside - ran
