"""Mechanisms that are convolutions themselves, in the place of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .trace import Call, Trace

if TYPE_CHECKING:
    from .placement import Target


from paddle import nn

from .hooks import attention_hooks, backbone_layers, copy_mode, replacing_classes
from .trace import last_line, run_trace

_NORMALISATIONS = (nn.layer.norm._BatchNormBase, nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.Identity)


def _convolutions(layer: nn.Layer) -> list[nn.Conv2D]:
    """The convolutions in a layer, not counting those of attention inserted before."""
    return [x for x in backbone_layers(layer).values() if isinstance(x, nn.Conv2D)]


def first_convolution(trace: Trace, block: str) -> str:
    """The layer that holds the first convolution larger than 1x1 of ``block``, and no other convolution.

    Raises:
        ValueError: if there is none, or a mechanism has replaced one already.
    """
    replacing = replacing_classes()
    for name in _run_in(trace, block):
        layer = trace.layers[name]
        if isinstance(layer, replacing):
            raise ValueError(
                f"at='conv': block {block!r} of {trace.title} already has {type(layer).__name__}"
            )
        if not isinstance(layer, nn.Conv2D):
            continue
        sizes = layer._kernel_size
        if max([sizes] if isinstance(sizes, int) else sizes) == 1:
            continue
        while name != block and (parent := name.rpartition(".")[0]) not in ("", block):
            if parent not in trace.order or not _is_a_unit(trace, parent):
                break
            name = parent
        return name
    raise ValueError(f"at='conv': block {block!r} of {trace.title} has no convolution larger than 1x1")


def _run_in(trace: Trace, block: str) -> list[str]:
    """Names of ``block`` and the layers that run in it, also those that it shares with others, in their order."""

    def below(call: Call) -> Iterator[str]:
        yield call.name
        for child in call.children:
            yield from below(child)

    return list(dict.fromkeys(name for call in trace.calls if call.name == block for name in below(call)))


def _is_a_unit(trace: Trace, parent: str) -> bool:
    """Whether layer ``parent`` runs one convolution, and besides it only normalisation and activation."""
    run = [trace.layers[n] for n in trace.order if n.startswith(parent + ".")]
    leaves = [layer for layer in run if not layer._sub_layers]
    others = [x for x in leaves if not isinstance(x, (nn.Conv2D, *_NORMALISATIONS))]
    activations = [x for x in others if type(x).__module__.endswith(".activation")]
    return len(_convolutions(trace.layers[parent])) == 1 and len(activations) == len(others)


def like_convolution(trace: Trace, target: Target) -> tuple[int, dict[str, Any]]:
    """``(channels, arguments)`` of a mechanism that takes the place of the layer of ``target``.

    Raises:
        ValueError: if that layer is not one convolution that can be replaced.
    """
    layer, arguments = trace.layers[target.layer], target.request.arguments
    where, found = f"layer {target.layer!r} of {trace.title}", _convolutions(layer)
    if len(found) != 1:
        raise ValueError(
            f"{where} holds {len(found)} convolutions; only a layer with one "
            "can be replaced by a mechanism that is a convolution"
        )
    stride = found[0]._stride
    strides = {stride} if isinstance(stride, int) else set(stride)
    if len(strides) != 1:
        raise ValueError(f"{where} has strides {stride}; they must be equal")
    hooked = [n for n, x in backbone_layers(layer).items() if n and attention_hooks(x)]
    if hooked:
        raise ValueError(f"{where} cannot be replaced: attention was put on {hooked[0]!r} inside it")
    if target.channels != found[0]._out_channels:
        raise ValueError(f"{where} does more than its convolution; choose another")
    for key in ("out_channels", "stride"):
        if key in arguments:
            raise ValueError(f"{key} is found from the convolution that is replaced; remove it")
    shape = {"out_channels": found[0]._out_channels, "stride": strides.pop()}
    return found[0]._in_channels, {**arguments, **shape}


def check_replacements(targets: Sequence[Target]) -> None:
    """Raise ValueError if a layer is replaced twice, or attended to inside one that is replaced."""
    replaced = [target.layer for target in targets if target.request.replaces]
    for i, name in enumerate(replaced):
        if name in replaced[:i]:
            raise ValueError(f"layer {name!r} would be replaced twice; give each mechanism its own blocks")
        for other in targets:
            if other.layer.startswith(name + "."):
                raise ValueError(
                    f"layer {other.layer!r} lies in {name!r}, which is replaced; put the attention on {name!r}"
                )


def replace_layers(trace: Trace, new: dict[str, nn.Layer]) -> None:
    """Put the new layers in place, and take them out again if the network does not run with them.

    Args:
        trace (Trace): of the network as it was.
        new (dict): dotted names to layers.

    Raises:
        ValueError: if the network does not run, or a layer returns another shape.
    """
    if not new:
        return
    for name, layer in new.items():
        swap(trace.model, trace.layers[name], layer)
    try:
        after = run_trace(trace.model, trace.input_shape, trace.inputs)
        for name in new:
            shapes = [[call.shape for call in run.calls if call.name == name] for run in (trace, after)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"it returned {shapes[0]} and would return {shapes[1] or 'nothing'}")
    except Exception as error:
        for name, layer in new.items():
            swap(trace.model, layer, trace.layers[name])
        raise ValueError(
            f"at='conv': {', '.join(new)} of {trace.title} cannot be replaced by a mechanism that is a convolution "
            f"({last_line(error)}); choose layers that hold one padded convolution with its "
            "normalisation and activation"
        ) from error


def swap(model: nn.Layer, old: nn.Layer, new: nn.Layer) -> None:
    """Put ``new`` in every place of ``old``, with its hooks and the attention put on it."""
    copy_mode(new, old)
    for hooks in ("_forward_pre_hooks", "_forward_post_hooks"):
        getattr(new, hooks).update(getattr(old, hooks))
    for hook in attention_hooks(old):
        new.add_sublayer(hook.name, old._sub_layers.pop(hook.name))
    old._forward_pre_hooks.clear()
    old._forward_post_hooks.clear()
    for layer in model.sublayers(include_self=True):
        for places in (layer._sub_layers, *(v for v in vars(layer).values() if isinstance(v, list))):
            keys = list(places) if isinstance(places, dict) else range(len(places))
            for key in keys:
                if places[key] is old:
                    places[key] = new
