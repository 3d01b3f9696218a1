"""A network as a tree: where its attention is, and what every part costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paddle import nn

from ..insertion import attention_prefixes
from .complexity import work_by_layer
from .countings import macs

_WIDTH, _NUMBERS = 100, 42


@dataclass(frozen=True)
class Part:
    """One line of the summary: a layer with all that is in it.

    Attributes:
        name: its last name; the whole network's is ``''``.
        path: its whole name.
        kind: its class.
        params: trainable numbers.
        macs: multiply-adds for one image.
        attention: whether it is attention.
    """

    name: str
    path: str
    kind: str
    params: int
    macs: float
    attention: bool

    @property
    def depth(self) -> int:
        return self.path.count(".") + 1 if self.path else 0


def summarize(network: nn.Layer, input_shape: Sequence[int] = (3, 224, 224)) -> list[Part]:
    """The network itself, every attention layer, and the layers around these, from the outside inwards.

    Args:
        network (paddle.nn.Layer): any network that takes one image batch.
        input_shape (list of int): ``[C, H, W]``.

    Returns:
        list of :class:`Part`. Of a network without attention: itself and its sublayers.
    """
    work = work_by_layer(network, input_shape)
    attention = [prefix[:-1] for prefix in attention_prefixes(network)]
    parts = []
    for path, layer in network.named_sublayers(include_self=True):
        is_attention = path in attention
        inside = any(path.startswith(f"{other}.") for other in attention)
        around = any(other.startswith(f"{path}.") for other in attention)
        if inside or not (is_attention or around or "." not in path):
            continue
        own = [w for p, w in work.items() if path == "" or p == path or p.startswith(f"{path}.")]
        params = sum(int(p.size) for p in layer.parameters() if p.trainable)
        cost = sum(macs(Counter(w)) for w in own)
        parts.append(Part(path.rpartition(".")[2], path, type(layer).__name__, params, cost, is_attention))
    return parts


def summary_lines(parts: Sequence[Part]) -> Iterator[str]:
    """The parts as a tree of at most 100 columns, and what attention adds up to."""
    whole = parts[0]
    yield f"{'layer':{_WIDTH - _NUMBERS}}{'params':>12}{'share':>8}{'MACs':>14}{'share':>8}"
    for part in parts:
        mark = "* " if part.attention else "  "
        text = f"{'  ' * part.depth}{mark}{part.name or 'network'} {part.kind}"
        if len(text) > _WIDTH - _NUMBERS - 1:
            text = text[: _WIDTH - _NUMBERS - 2] + "…"
        yield f"{text:{_WIDTH - _NUMBERS}}{_numbers(part.params, part.macs, whole)}"
    found = [part for part in parts if part.attention]
    yield ""
    text = f"* attention: {len(found)} layers"
    total = _numbers(sum(p.params for p in found), sum(p.macs for p in found), whole)
    yield f"{text:{_WIDTH - _NUMBERS}}{total}"


def _numbers(params: int, cost: float, whole: Part) -> str:
    return f"{params:>12,}{_share(params, whole.params)}{cost:>14,.0f}{_share(cost, whole.macs)}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:>8.2%}" if whole else f"{'-':>8}"
