"""Take attention out of a network again, for good or for a while."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Collection, Iterator, Sequence

from paddle import nn

from ..registry import list_attentions
from .hooks import DISABLED, ApplyAttention, detach, hooks_of
from .records import set_records, stands_for
from .replace import swap
from .trace import is_static


def remove_attention(model: nn.Layer) -> list[str]:
    """Take all inserted attention out of a network, in place: the backbone as it was, with its weights of now.

    Convolutions that were replaced (``SKConv``) return with the weights that they had when they
    were replaced.

    Args:
        model (paddle.nn.Layer): a network into which :func:`insert_attention` has put attention, or one
            that contains it.

    Returns:
        list of str: dotted names of the attention layers that were removed; empty if there were none.

    Raises:
        ValueError: if a part of the network was converted by ``paddle.jit.to_static``, whose programs
            would go on with the attention.
    """
    _refuse_static(model, "remove_attention")
    removed = remove_insertions(model, None)
    for layer in model.sublayers(include_self=True):
        set_records(layer, [])
    return removed


def remove_insertions(model: nn.Layer, keys: Collection[str] | None) -> list[str]:
    """Take out the attention layers of these dotted names, or all; returns the names. Records stay."""
    removed, layers = [], model.sublayers(include_self=True)
    for key, layer, hook in hooks_of(model):
        if keys is None or key in keys:
            detach(layer, str(hook.name), layers)
            removed.append(key)
    for name, layer in list(model.named_sublayers()):
        replaced = stands_for(layer)
        if replaced is not None and (keys is None or name in keys):
            _put_back(model, layer, replaced.original)
            removed.append(name)
    return removed


def _put_back(model: nn.Layer, layer: nn.Layer, original: nn.Layer) -> None:
    now = next((p.dtype for p in layer.parameters() if p.is_floating_point()), None)
    if now is not None:
        original.to(dtype=now)
    swap(model, layer, original)


@contextlib.contextmanager
def attention_disabled(model: nn.Layer, which: str | Sequence[str] | None = None) -> Iterator[list[str]]:
    """Run a network without its attention, or without some of it, for a while: for ablations.

    What it transforms passes as it is. Copies that are made meanwhile have their attention.

    Args:
        model (paddle.nn.Layer): a network with inserted attention.
        which (str or list of str, optional): names of mechanisms such as ``'SE'``, or patterns of dotted
            names of attention layers such as ``'layer4.*'``; here ``*`` crosses dots. Default: all.

    Yields:
        list of str: dotted names of what is disabled.

    Raises:
        ValueError: if ``which`` matches nothing, or something that has replaced a convolution, or the
            network was converted by ``paddle.jit.to_static``.
    """
    _refuse_static(model, "attention_disabled")
    chosen = _choose(model, which)
    try:
        DISABLED.update(hook for _, hook in chosen)
        yield [key for key, _ in chosen]
    finally:
        DISABLED.difference_update(hook for _, hook in chosen)


def _refuse_static(model: nn.Layer, what: str) -> None:
    for name, layer in model.named_sublayers(include_self=True):
        if is_static(layer):
            raise ValueError(
                f"{what}: {name or 'the network'!r} was converted by paddle.jit.to_static, and its program would go on "
                "with the attention; do it before the conversion"
            )


def _choose(model: nn.Layer, which: str | Sequence[str] | None) -> list[tuple[str, ApplyAttention]]:
    patterns = ["*"] if which is None else [which] if isinstance(which, str) else list(which)
    classes = {entry.name: entry.cls for entry in list_attentions()}
    found = [(key, layer._sub_layers[hook.name], hook) for key, layer, hook in hooks_of(model)]
    replaced = [(name, x) for name, x in model.named_sublayers() if stands_for(x) is not None]
    chosen: dict[str, ApplyAttention] = {}
    for pattern in patterns:
        for name, layer in replaced:
            if _fits(name, layer, pattern, classes):
                raise ValueError(
                    f"which={pattern!r}: {name!r} has replaced a convolution, without which the network does not "
                    "run; name others, or use remove_attention"
                )
        fitting = {key: hook for key, x, hook in found if _fits(key, x, pattern, classes)}
        if not fitting:
            there = ", ".join(key for key, _, _ in found[:6]) + (", ..." if len(found) > 6 else "")
            raise ValueError(f"which={pattern!r} matches no attention of {type(model).__name__} ({there})")
        chosen.update({key: hook for key, hook in fitting.items() if hook.enabled})
    return list(chosen.items())


def _fits(key: str, layer: nn.Layer, pattern: str, classes: dict[str, type]) -> bool:
    return type(layer) is classes.get(pattern) or fnmatch.fnmatchcase(key, pattern)
