"""Apply attention to the targets, check that the network runs with it, or leave everything as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paddle import nn

from .blocks import Block
from .trace import Trace

if TYPE_CHECKING:
    from .placement import Target


import collections
import traceback
from dataclasses import dataclass

import paddle

from ..registry import build_attention
from ..trial import trial
from .blocks import Structure
from .hooks import ApplyAttention, ApplyBefore, ApplyToShortcut, attach, detach, keeps_raw_input
from .placement import find_targets
from .replace import check_replacements, like_convolution, replace_layers, swap
from .request import errors_at, parse_requests
from .trace import PROBE_SIZES, last_line, run_trace, trace_network


@dataclass(frozen=True)
class Insertion:
    """One attention layer that was put into a network.

    Attributes:
        layer: dotted name of the layer whose output (before which: whose input) is transformed.
        key: dotted name of the attention layer itself, the prefix of its state_dict keys;
            the same as ``layer`` where it replaced that.
        attention: registry name of the mechanism.
        channels: number of channels found there.
    """

    layer: str
    key: str
    attention: str
    channels: int


def insert_attention(
    model: nn.Layer,
    attention: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    at: str | None = None,
    stages: int | Sequence[int] | None = None,
    blocks: int | Sequence[int] | None = None,
    input_shape: Sequence[int] | None = None,
    before: bool = False,
) -> list[Insertion]:
    """Insert attention into ``model``, in place.

    Args:
        model (paddle.nn.Layer): any network that takes one image batch.
        attention: a registry name, a dict such as ``dict(name='SE',
            reduction=16)``, or a list of these, applied in the order written. A
            dict may also hold its own ``at``, ``stages``, ``blocks`` and ``before``; every
            other key is an argument of the mechanism.
        at (str, optional): where. ``'residual'`` (default): at the end of the
            residual branch of each block, before the addition. ``'block'``: after each
            block. ``'stage'``: after the last block of each stage. ``'pre'``: before
            the residual branch of each block. ``'identity'``: on its shortcut, before the
            addition. Anything else
            is a pattern of sublayer names such as ``'blocks.*.conv1'``; ``*`` and
            ``?`` do not cross a dot. Mechanisms that replace a convolution take
            ``'conv'`` (their default): the first convolution larger than 1x1 of each
            block, with its normalisation and activation where one layer holds just these;
            or a pattern of the layers to be replaced.
        stages (int or list of int, optional): only these stages, from 1.
        blocks (int or list of int, optional): only these blocks of each stage,
            from 1; -1 is the last.
        input_shape (list of int, optional): ``[C, H, W]`` of the trial run.
            Default: the channels of the first convolution, or 3, and 64 x 64; if the
            network refuses that, 224, 112, 256, 384 and 32.
        before (bool): put it before the layers that a pattern of names matches: their
            input is transformed, not their output.

    Returns:
        list of :class:`Insertion`, in execution order for each attention.

    Raises:
        ValueError: for an unknown mechanism, argument, stage or block, a layer
            whose output is not ``[N, C, H, W]`` (or ``[N, L, C]``, for mechanisms that
            take tokens), and a placement that matches nothing (the message lists what
            could be matched). The model is then unchanged.
    """
    requests = parse_requests(attention, at, stages, blocks, before)
    trace = trace_network(model, input_shape)
    structure, targets, layers = Structure(trace), [], []
    for request in requests:
        with errors_at(request.path):
            for target in find_targets(structure, request):
                targets.append(target)
                layers.append(_build(trace, target))
    check_replacements(targets)
    return _apply(trace, targets, layers)


def describe_blocks(model: nn.Layer, input_shape: Sequence[int] | None = None) -> list[Block]:
    """The residual blocks that ``at='residual' | 'block' | 'stage'`` address, as :class:`Block`."""
    return Structure(trace_network(model, input_shape)).blocks


def _build(trace: Trace, target: Target) -> nn.Layer:
    """The attention layer for ``target``."""
    channels, arguments = target.channels, target.request.arguments
    if target.request.replaces:
        channels, arguments = like_convolution(trace, target)
    try:
        layer = build_attention(target.request.name, channels, **arguments)
    except (ValueError, TypeError) as error:  # the latter for an argument of a type that is never right
        raise ValueError(f"at layer {target.layer!r} with {channels} channels: {error}") from error
    if trace.dtype != paddle.float32:
        layer.to(dtype=trace.dtype)
    return layer


def _apply(trace: Trace, targets: Sequence[Target], layers: Sequence[nn.Layer]) -> list[Insertion]:
    """Put every layer on its target; a list of :class:`Insertion`."""
    planned = list(zip(targets, layers, strict=True))
    replacements = {target.layer: layer for target, layer in planned if target.request.replaces}
    originals = {name: trace.layers[name] for name in replacements}
    replace_layers(trace, replacements)
    trace.layers.update(replacements)
    done = []
    try:
        for target, layer in planned:
            key = target.layer if target.request.replaces else _attach(trace, target, layer)
            channels = layer.channels if target.request.replaces else target.channels
            done.append(Insertion(target.layer, key, target.request.name, channels))
        _check_calls(trace, done)
    except BaseException:
        for inserted in reversed(done):
            if inserted.key != inserted.layer:
                name = inserted.key.rpartition(".")[2]
                detach(trace.layers[inserted.layer], name, trace.layers.values())
        for name, layer in originals.items():
            swap(trace.model, replacements[name], layer)
        raise
    return done


def _attach(trace: Trace, target: Target, layer: nn.Layer) -> str:
    """Dotted name of the attention layer that is now called at ``target``."""
    at, start, kind = trace.layers[target.layer], None, ApplyBefore if target.on_input else ApplyAttention
    if target.branch_start is not None and not keeps_raw_input(at):
        start, kind = trace.layers[target.branch_start], ApplyToShortcut
    name = attach(at, layer, kind, start)
    return f"{target.layer}.{name}" if target.layer else name


def _check_calls(trace: Trace, done: Sequence[Insertion]) -> None:
    """Raise ValueError unless each attention runs as often as the layer it is on."""
    calls: collections.Counter[str] = collections.Counter()
    layers = {"": trace.model, **dict(trace.model.named_sublayers())}
    with trial(trace.model) as handles:
        for inserted in done:

            def count(layer: nn.Layer, inputs: Any, key: str = inserted.key) -> None:
                calls[key] += 1

            handles.append(layers[inserted.key].register_forward_pre_hook(count))
        again = _run_again(trace, calls, [layers[inserted.key] for inserted in done])
    if again is None:
        return
    for inserted in done:
        if calls[inserted.key] != again.count(inserted.layer):
            raise ValueError(
                f"layer {inserted.layer!r} of {trace.title} runs its sublayers in turn, and with them the "
                f"attention put on it ({calls[inserted.key]} times in all); choose its last sublayer"
            )


def _run_again(trace: Trace, calls: collections.Counter[str], attentions: Sequence[nn.Layer]) -> Trace | None:
    """A second trial run; on other images where an attention does not take maps of the first one's size.

    None where it takes none of them: it was made for a size of its own. Raises ValueError where it is
    the network itself that runs no longer, as one does that unpacks its own sublayers.
    """
    for shape in (trace.input_shape, *([trace.input_shape[0], size, size] for size in PROBE_SIZES)):
        calls.clear()
        try:
            return run_trace(trace.model, shape)
        except Exception as error:  # of any kind
            callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
            if shape is trace.input_shape and not any(x is y for x in callers for y in attentions):
                names = [name for x in reversed(callers) for name, y in trace.layers.items() if x is y]
                raise ValueError(
                    f"layer {names[0] if names else ''!r} of {trace.title} runs no longer with attention among its "
                    f"sublayers ({last_line(error)}); choose another layer"
                ) from error
    return None
