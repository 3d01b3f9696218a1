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

import paddle

from ..registry import build_attention
from ..trial import trial
from .blocks import Structure
from .carry import AttentionFile, check_state, names_a_file, read_attention, set_state
from .hooks import ApplyAttention, ApplyBefore, ApplyToShortcut, attach, detach, keeps_raw_input
from .placement import find_targets
from .rebuilt import check_survival
from .records import Insertion, Record, record, records, set_records, stand_for
from .replace import check_replacements, like_convolution, replace_layers, swap
from .request import PlaceError, Request, errors_at, parse_requests
from .trace import PROBE_SIZES, last_line, run_trace, trace_network
from .undo import remove_insertions


def insert_attention(
    model: nn.Layer,
    attention: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    at: str | None = None,
    stages: int | Sequence[int] | None = None,
    blocks: int | Sequence[int] | None = None,
    input_shape: Sequence[int] | None = None,
    before: bool = False,
    inputs: Any = None,
) -> list[Insertion]:
    """Insert attention into ``model``, in place.

    Args:
        model (paddle.nn.Layer): any network; for one that takes more than one image batch, give ``inputs``.
        attention: a registry name, a dict such as ``dict(name='SE',
            reduction=16)``, or a list of these, applied in the order written; or the path of
            a file that :func:`save_attention` wrote: places and weights are then those in it. A
            dict may also hold its own ``at``, ``stages``, ``blocks`` and ``before``; every
            other key is an argument of the mechanism.
        at (str, optional): where. Default: ``'residual'`` where each block of the network adds
            the end of a branch to a shortcut, else ``'block'``. ``'residual'``: at the end of the
            residual branch of each block, before the addition. ``'block'``: after each
            block; in a network without residual blocks, after each of its repeated units. ``'stage'``: after the last block of each stage. ``'pre'``: before
            the residual branch of each block. ``'identity'``: on its shortcut, before the
            addition. Anything else
            is a pattern of sublayer names such as ``'blocks.*.conv1'``; ``*`` and
            ``?`` do not cross a dot. Mechanisms that replace a convolution take
            ``'conv'`` (their default): the first convolution larger than 1x1 of each
            block, with its normalisation and activation where one layer holds just these;
            or a pattern of the layers to be replaced.
        stages (int or list of int, optional): only these stages, from 1; -1 is the last.
        blocks (int or list of int, optional): only these blocks of each stage,
            from 1; -1 is the last.
        input_shape (list of int, optional): ``[C, H, W]`` of the trial run.
            Default: the channels of the first convolution, or 3, and 64 x 64; if the
            network refuses that, 224, 112, 256, 384 and 32.
        before (bool): put it before the layers that a pattern of names matches: their
            input is transformed, not their output.
        inputs (optional): what the trial run calls the network with, instead of an image: a
            tensor, a dict such as ``{'image': x}``, or a tuple of several arguments.

    Returns:
        list of :class:`Insertion`, in execution order for each attention.

    Raises:
        ValueError: for an unknown mechanism, argument, stage or block, a layer
            whose output is not ``[N, C, H, W]`` (or ``[N, L, C]``, for mechanisms that
            take tokens), a placement that matches nothing (the message lists what
            could be matched), and one inside a layer that is merged with others for deployment
            (re-parameterised), which would drop the attention. The model is then unchanged.
    """
    if names_a_file(attention):
        if any(value not in (None, False) for value in (at, stages, blocks, before)):
            raise ValueError(
                f"{attention}: says itself where its attention goes; leave out at, stages, blocks and before"
            )
        return _insert_from_file(model, read_attention(attention), input_shape, inputs)
    requests = parse_requests(attention, at, stages, blocks, before)
    structure = Structure(trace_network(model, input_shape, inputs))
    try:
        done = _insert(structure, requests)
    except PlaceError as error:
        # Where the place is the network's to decide, the end of a branch may be one that cannot be used.
        elsewhere = [request.by_default("block") for request in requests]
        if elsewhere == requests:
            raise
        try:
            done = _insert(structure, elsewhere)
        except ValueError:
            raise error from None
        requests = elsewhere
    shape = None if input_shape is None else tuple(input_shape)
    record(model, Record(tuple(request.specification for request in requests), shape, tuple(done)))
    return done


def _insert(structure: Structure, requests: Sequence[Request]) -> list[Insertion]:
    """Put in what is asked for, or leave everything as it was."""
    trace, targets, layers = structure.trace, [], []
    for request in requests:
        with errors_at(request.path):
            for target in find_targets(structure, request):
                targets.append(target)
                layers.append(_build(trace, target))
    check_replacements(targets)
    check_survival(trace, targets)
    return _apply(trace, targets, layers)


def _insert_from_file(
    model: nn.Layer, file: AttentionFile, input_shape: Sequence[int] | None, inputs: Any
) -> list[Insertion]:
    """Repeat the calls that a file tells of, and set the weights; all or nothing."""
    before, done = records(model), []
    try:
        for items, shape in file.calls:
            given = (input_shape or shape) if inputs is None else None
            done += insert_attention(model, items, input_shape=given, inputs=inputs)
        check_state(model, file, [insertion.key for insertion in done])
    except BaseException as error:
        remove_insertions(model, [insertion.key for insertion in done])
        set_records(model, before)
        if isinstance(error, ValueError) and not str(error).startswith(file.path):
            raise ValueError(f"{file.path}: {error}") from error
        raise
    set_state(model, file)
    return done


def describe_blocks(
    model: nn.Layer, input_shape: Sequence[int] | None = None, inputs: Any = None
) -> list[Block]:
    """The blocks that ``at='residual' | 'block' | 'stage'`` address, as :class:`Block`.

    Args:
        model, input_shape, inputs: see :func:`insert_attention`.
    """
    return Structure(trace_network(model, input_shape, inputs)).blocks


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
        for name, layer in replacements.items():
            stand_for(layer, name, originals[name])
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
    return attach(at, layer, kind, target.layer, start)


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
            raise PlaceError(
                f"layer {inserted.layer!r} of {trace.title} runs its sublayers in turn, and with them the "
                f"attention put on it ({calls[inserted.key]} times in all); choose its last sublayer"
            )


def _run_again(trace: Trace, calls: collections.Counter[str], attentions: Sequence[nn.Layer]) -> Trace | None:
    """A second trial run; on other images where an attention does not take maps of the first one's size.

    None where it takes none of them: it was made for a size of its own. Raises ValueError where it is
    the network itself that runs no longer, as one does that unpacks its own sublayers.
    """
    first = trace.input_shape
    for shape in (first, *([first[0], size, size] for size in PROBE_SIZES if first)):
        calls.clear()
        try:
            return run_trace(trace.model, shape, trace.inputs)
        except Exception as error:  # of any kind
            callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
            if shape is first and not any(x is y for x in callers for y in attentions):
                names = [name for x in reversed(callers) for name, y in trace.layers.items() if x is y]
                raise PlaceError(
                    f"layer {names[0] if names else ''!r} of {trace.title} runs no longer with attention among its "
                    f"sublayers ({last_line(error)}); choose another layer"
                ) from error
    return None
