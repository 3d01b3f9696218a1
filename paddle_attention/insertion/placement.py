"""Requests and a network's structure to targets: the layers that attention is put on."""

from __future__ import annotations

import collections
import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from paddle import nn

from ..naming import did_you_mean
from ..registry import list_attentions
from .blocks import Block, Structure, default_place
from .replace import first_convolution
from .request import PlaceError, Request
from .trace import Call, Trace

_SHOWN = 12  # names in a hint
_BY_ADDITIONS = ("", "residual", "pre", "identity")


class Place(NamedTuple):
    """The layer, whether its input is transformed, and the layer that begins the branch beside it."""

    layer: str
    on_input: bool = False
    branch_start: str | None = None


@dataclass(frozen=True)
class Target:
    """One place for one attention layer.

    Attributes:
        request: what asks for it.
        layer: dotted name of the layer.
        on_input: its input is transformed, not its output.
        branch_start: for attention on a shortcut that is the block's input itself, the dotted
            name of the layer that begins the branch.
        channels: of what is transformed.
    """

    request: Request
    layer: str
    on_input: bool = False
    branch_start: str | None = None
    channels: int = 0


def find_targets(structure: Structure, request: Request) -> list[Target]:
    """The :class:`Target` of every layer that ``request`` addresses, in execution order.

    Raises:
        ValueError: for a place that the network does not have; the message lists what it has.
    """
    targets, trace = [], structure.trace
    # Blocks that share a layer share the place.
    for name, on_input, branch_start in dict.fromkeys(_places(structure, request)):
        layer = name if request.replaces else _innermost(trace, name, on_input)
        channels = count_channels(trace, request, layer, on_input)
        targets.append(Target(request, layer, on_input, branch_start, channels))
    return targets


def _places(structure: Structure, request: Request) -> list[Place]:
    """``(layer, on_input, branch_start)`` of every place."""
    chosen = _choose_blocks(structure, request) if request.by_blocks else []
    if request.at_first_convolution:
        return [Place(first_convolution(structure.trace, block.name)) for block in chosen]
    at = request.at or default_place(chosen)
    if at in _BY_BLOCK:
        places = _BY_BLOCK[at](structure, request, chosen)
        for block in chosen:
            _check_once(structure.trace, block, {place.layer for place in places})
        return places
    return [
        Place(name, request.before)
        for name in _matching(structure, request, chosen if request.by_blocks else None)
    ]


def _check_once(trace: Trace, block: Block, layers: set[str]) -> None:
    """Raise PlaceError for a layer that runs several times within one run of ``block``: it means several places."""
    for call in trace.calls:
        if call.name == block.name:
            for name, count in collections.Counter(_names_below(call)).items():
                if count > 1 and name in layers:
                    raise PlaceError(
                        f"layer {name!r} of {trace.title} runs {count} times in block {block.name!r}, not only at the "
                        "place that is meant; use at='block' or a pattern"
                    )


def _names_below(call: Call) -> Iterator[str]:
    for child in call.children:
        yield child.name
        yield from _names_below(child)


def _at_residual(structure: Structure, request: Request, chosen: list[Block]) -> list[Place]:
    trace, places = structure.trace, []
    _require_residual_blocks(structure, request)
    for block in chosen:
        if block.branch_end is None:
            raise ValueError(
                f"at='residual': block {block.name!r} of {trace.title} adds something that no single "
                f"layer of a deeper branch returns; use at='block' or a pattern{_could_match(structure, '')}"
            )
        places.append(Place(block.branch_end))
    return places


def _at_block(structure: Structure, request: Request, chosen: list[Block]) -> list[Place]:
    return [Place(block.name) for block in chosen]


def _at_stage(structure: Structure, request: Request, chosen: list[Block]) -> list[Place]:
    last = {block.stage: block.name for block in structure.blocks}
    return [Place(last[block.stage]) for block in chosen]


def _at_pre(structure: Structure, request: Request, chosen: list[Block]) -> list[Place]:
    trace, places = structure.trace, []
    for block in _with_shortcut(structure, request, chosen):
        if not block.branch_start:
            raise ValueError(
                f"at='pre': no single layer of {trace.title} begins the branch of block {block.name!r}; "
                f"use at='block' or a pattern{_could_match(structure, '')}"
            )
        places.append(Place(block.branch_start, True))
    return places


def _at_identity(structure: Structure, request: Request, chosen: list[Block]) -> list[Place]:
    """On the layer that ends the shortcut; on the block's input where that is the shortcut itself."""
    trace, places = structure.trace, []
    for block in _with_shortcut(structure, request, chosen):
        if block.shortcut == "" and block.branch_start:
            places.append(Place(block.name, True, block.branch_start))
        elif block.shortcut:
            places.append(Place(block.shortcut))
        else:
            raise ValueError(
                f"at='identity': block {block.name!r} of {trace.title} has no shortcut that one layer returns"
                f"{_could_match(structure, '')}"
            )
    return places


_BY_BLOCK = {
    "residual": _at_residual,
    "block": _at_block,
    "stage": _at_stage,
    "pre": _at_pre,
    "identity": _at_identity,
}


def _require_residual_blocks(structure: Structure, request: Request) -> None:
    if not structure.residual_blocks:
        raise ValueError(
            f"at={request.at!r}: {structure.trace.title} has no residual block, that is no layer that adds its "
            f"branch to a shortcut; use at='block' or a pattern{_could_match(structure, '')}"
        )


def _with_shortcut(structure: Structure, request: Request, chosen: list[Block]) -> list[Block]:
    _require_residual_blocks(structure, request)
    found = [block for block in chosen if block.branch_end != block.name]
    if not found:
        raise ValueError(f"at={request.at!r}: no chosen block of {structure.trace.title} has a shortcut")
    return found


def _matching(structure: Structure, request: Request, chosen: list[Block] | None) -> list[str]:
    """Names that the pattern matches, inside the chosen blocks where some are chosen."""
    trace = structure.trace
    names = [n for n in trace.order if n and _matches(n, request.at)]
    if not names:
        raise ValueError(
            f"at={request.at!r} matches no layer of {trace.title}{_could_match(structure, request.at)}"
        )
    if chosen is not None:
        inside = tuple(block.name for block in chosen)
        names = [n for n in names if any(n == b or n.startswith(b + ".") for b in inside)]
        if not names:
            raise ValueError(
                f"at={request.at!r} matches no layer inside stages={request.stages}, blocks={request.blocks} "
                f"of {trace.title}"
            )
    return names


def _matches(name: str, pattern: str) -> bool:
    wanted = re.sub(r"\[(\d+|\*)\]", r".\1", pattern).split(".")
    parts = name.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _choose_blocks(structure: Structure, request: Request) -> list[Block]:
    found, title = structure.blocks, structure.trace.title
    if structure.unseen is not None and request.at in _BY_ADDITIONS:
        raise ValueError(
            f"at={request.at or 'residual'!r}: {structure.unseen or 'the network'!r} of {title} runs without gradients "
            "(paddle.no_grad, detach, integer inputs), so the additions of its blocks cannot be seen; use at='block' or a "
            f"pattern{_could_match(structure, '')}"
        )
    if not found:
        raise ValueError(
            f"at={request.at or 'block'!r}: {title} has no blocks, neither residual ones nor repeated layers "
            f"with convolutions; give a pattern of layer names{_could_match(structure, '')}"
        )
    sizes = {}
    for block in found:
        sizes[block.stage] = block.index
    for stage in request.stages or ():
        if abs(stage) not in sizes:
            raise ValueError(
                f"stages={list(request.stages or ())}: {title} has no stage {stage}; "
                f"its stages are 1 to {len(sizes)}, with {list(sizes.values())} blocks"
            )
    stages = {s if s > 0 else len(sizes) + 1 + s for s in request.stages or sizes}
    if request.blocks is None:
        return [b for b in found if b.stage in stages]
    largest = max(sizes[s] for s in stages)
    for number in request.blocks:
        if abs(number) > largest:
            raise ValueError(
                f"blocks={list(request.blocks)}: no chosen stage of {title} has a block {number}; "
                f"the stages have {list(sizes.values())} blocks"
            )
    wanted = set(request.blocks)
    return [b for b in found if b.stage in stages and {b.index, b.index - sizes[b.stage] - 1} & wanted]


def _could_match(structure: Structure, wanted: str) -> str:
    """A hint for error messages: the places that the network has, and names of its feature-map layers."""
    trace = structure.trace
    ranks = (4,) if any(len(c.shape) == 4 and c.shape[2] > 1 for c in trace.calls) else (3,)
    names = [c.name for c in trace.calls if c.name and len(c.shape) in ranks]
    folded = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", n) for n in names))
    shown = sorted(folded, key=lambda n: (n.count("."), n))[:_SHOWN]
    more = f", and {len(folded) - len(shown)} more" if len(folded) > len(shown) else ""
    near = did_you_mean(wanted, [*structure.placements(), *folded]) if wanted else ""
    return f"{near}; could be matched: {', '.join([*structure.placements(), *shown])}{more}"


def _innermost(trace: Trace, name: str, on_input: bool) -> str:
    """Where ``name`` is a chain of layers, the last (for what comes before: the first) of them.

    ``nn.Sequential`` runs all its sublayers: attention among them would be one more.
    """
    names = {id(layer): n for n, layer in trace.layers.items()}
    while type(trace.layers[name]).forward is nn.Sequential.forward:
        children = [names[id(x)] for x in trace.layers[name]._sub_layers.values() if id(x) in names]
        edge, verb = (0, "begins with") if on_input else (-1, "ends in")
        if not children or children[edge] not in trace.order:
            break
        if trace.count(children[edge]) != trace.count(name):
            raise ValueError(
                f"the chain {name!r} of {trace.title} {verb} {children[edge]!r}, which runs elsewhere, too; "
                "choose another layer"
            )
        name = children[edge]
    return name


def count_channels(trace: Trace, request: Request, name: str, on_input: bool) -> int:
    """Channels of what is transformed at layer ``name``: its output or its input.

    Raises:
        ValueError: if that is not one feature map, or tokens for a mechanism that takes them.
    """
    shapes = [call.input_shape if on_input else call.shape for call in trace.calls if call.name == name]
    ranks = {len(shape) for shape in shapes}
    found = {shape[1] if len(shape) == 4 else shape[-1] for shape in shapes if shape}
    if ranks == {4} and len(found) == 1:
        return found.pop()
    verb = "takes" if on_input else "returns"
    if ranks == {3} and len(found) == 1 and not request.replaces:
        takers = [entry.name for entry in list_attentions() if entry.takes_tokens]
        if request.name in takers:
            return found.pop()
        raise ValueError(
            f"layer {name!r} of {trace.title} {verb} tokens {shapes[0]}, and {request.name} needs a feature map "
            f"[N, C, H, W]; choose one of {', '.join(takers)}"
        )
    raise PlaceError(
        f"attention needs one feature map [N, C, H, W], but layer {name!r} of {trace.title} "
        f"{verb} {shapes if shapes != [[]] else 'something that is not one tensor'}; choose another layer"
    )
