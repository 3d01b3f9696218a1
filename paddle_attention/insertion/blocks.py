"""The blocks of a network, read from one forward pass: residual ones from its gradient graph, else its units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .hooks import keeps_raw_input
from .request import PLACEMENTS
from .trace import Call, Trace, operands
from .units import repeated_units

_ADDITIONS = ("AddGradNode", "AddNGradNode")  # names of graph nodes begin with these


@dataclass(frozen=True)
class Block:
    """One block as found by running the network: a residual one, or a repeated unit of a network without.

    Attributes:
        name: dotted name of the block.
        branch_end: dotted name of the last layer of the residual branch before
            the addition; the block itself if it has no addition, as some have among residual
            blocks; None where no layer returns what is added, the branch is no deeper than the
            shortcut, or the network has no residual blocks.
        branch_start: dotted name of the layer that begins the residual branch; None where
            there is no branch, or several layers take the block's input.
        shortcut: dotted name of the layer that ends the shortcut; an empty string where the
            shortcut is the block's input itself; None where there is no branch, or no
            layer returns what is added.
        stage: number of its stage, from 1.
        index: number within the stage, from 1.
        channels: channels of its output.
    """

    name: str
    branch_end: str | None
    stage: int
    index: int
    channels: int
    branch_start: str | None = None
    shortcut: str | None = None


class Structure:
    """What is known of a network: its trace and, once asked for, its blocks."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    @cached_property
    def residual_blocks(self) -> list[Block]:
        """In execution order: of feature maps; where there are none, of tokens ``[N, L, C]``."""
        return _residual_blocks(self.trace, 4) or _residual_blocks(self.trace, 3)

    @cached_property
    def blocks(self) -> list[Block]:
        """The residual blocks; where there are none, the repeated units."""
        if self.residual_blocks:
            return self.residual_blocks
        return _numbered((call.name, call.shape, _Addition()) for call in repeated_units(self.trace))

    @cached_property
    def unseen(self) -> str | None:
        """What ran without a gradient graph, so that additions in it cannot be seen; None where all blocks had one."""
        kinds = {type(self.trace.layers[block.name]) for block in self.residual_blocks}
        for call in self.trace.calls:
            if not call.outputs and (not call.name or type(self.trace.layers[call.name]) in kinds):
                return call.name
        return None

    def placements(self) -> list[str]:
        """The places by blocks that this network has."""
        if not self.blocks:
            return []
        branches = [block for block in self.residual_blocks if block.branch_end != block.name]
        has = {
            "residual": default_place(self.residual_blocks) == "residual",
            "pre": bool(branches) and all(block.branch_start for block in branches),
            "identity": bool(branches) and all(map(_attends_to_identity, branches)),
        }
        return [place for place in PLACEMENTS if has.get(place, True)]


def default_place(chosen: Iterable[Block]) -> str:
    """``'residual'`` where every block has the end of a branch, else ``'block'``."""
    ends = [block.branch_end for block in chosen]
    return "residual" if ends and None not in ends else "block"


def _attends_to_identity(block: Block) -> bool:
    return bool(block.shortcut or (block.shortcut == "" and block.branch_start))


@dataclass(frozen=True)
class _Addition:
    """How a call adds two paths from its input.

    Attributes:
        clear: one path is deeper, so it is a residual block; two paths of equal depth make one
            only if others of its class are.
        end, start, shortcut: see :class:`Block`; None unless ``clear``.
    """

    clear: bool = False
    end: str | None = None
    start: str | None = None
    shortcut: str | None = None


def _residual_blocks(trace: Trace, rank: int) -> list[Block]:
    additions, classes = {}, set()
    for call in trace.calls:
        if call.name and len(call.shape) == rank and call.name not in additions:
            addition = _Paths(trace, call).addition()
            if addition is not None:
                additions[call.name] = addition
                if addition.clear:
                    classes.add(type(trace.layers[call.name]))
    shapes: dict[str, list[int]] = {}
    for call in sorted(trace.calls, key=lambda c: trace.order.index(c.name)):
        if call.name and type(trace.layers[call.name]) in classes and len(call.shape) == rank:
            shapes.setdefault(call.name, call.shape)
    return _numbered(
        (name, shape, additions.get(name, _Addition(end=name))) for name, shape in shapes.items()
    )


def _numbered(places: Iterable[tuple[str, list[int], _Addition]]) -> list[Block]:
    """Blocks with their stages: one begins where the size changes, or the channels at least double."""
    found, stage, index, previous = [], 0, 0, None
    for name, shape, place in places:
        channels, size = (shape[1], shape[2:]) if len(shape) == 4 else (shape[2], shape[1:2])
        if previous is None or size != previous[1] or channels >= 2 * previous[0]:
            stage, index = stage + 1, 0
        index, previous = index + 1, (channels, size)
        found.append(Block(name, place.end, stage, index, channels, place.start, place.shortcut))
    return found


def _steps(trace: Trace, call: Call) -> Iterator[Call]:
    """The calls made in ``call``; instead of those that join several tensors without weights, the calls in them."""
    for child in call.children:
        if len(child.inputs) > 1 and not trace.layers[child.name].parameters():
            yield from _steps(trace, child)
        else:
            yield child


class _Paths:
    """The paths in the gradient graph from a call's output back to its input.

    A direct child is one step (from its output to its inputs); everything else met on the way
    belongs to the call's own forward, so an addition met there is its own. So does what is done in
    children that only join tensors, such as a layer ``Add``.
    """

    def __init__(self, trace: Trace, call: Call) -> None:
        self.trace, self.call = trace, call
        self.producer: dict[int, Call] = {}
        for child in _steps(trace, call):
            consumed = {n.node_ptr() for n in child.inputs}
            for node in child.outputs:
                if node.node_ptr() not in consumed:
                    self.producer.setdefault(node.node_ptr(), child)
        self.start = {n.node_ptr() for n in call.inputs}
        self._depths: dict[int, int] = {}

    def addition(self) -> _Addition | None:
        """The :class:`_Addition` met first on the way back from the output, a clear one before others, or None."""
        found, pending, visited = None, list(self.call.outputs), set()
        while pending:
            node = pending.pop(0)
            address = node.node_ptr()
            if address in visited or address in self.start:
                continue
            visited.add(address)
            child = self.producer.get(address)
            if child is not None:
                pending.extend(child.inputs)
                continue
            paths = operands(node)
            if node.name().startswith(_ADDITIONS) and len(paths) == 2:
                branch, shortcut = sorted(paths, key=self.depth, reverse=True)
                if self.depth(shortcut) >= 0 and self.depth(branch) > 0:
                    found = _Addition()
                    if self.depth(branch) > self.depth(shortcut):
                        return self._describe(branch, shortcut)
            pending.extend(paths)
        return found

    def depth(self, node: Any) -> int:
        """Most elementary calls on any path from ``node`` back to the input, -1 if none."""
        address = node.node_ptr()
        if address in self.start:
            return 0
        if address not in self._depths:
            self._depths[address] = -1
            child = self.producer.get(address)
            below = max(map(self.depth, child.inputs if child else operands(node)), default=-1)
            self._depths[address] = below + child.size if child and below >= 0 else below
        return self._depths[address]

    def _describe(self, branch: Any, shortcut: Any) -> _Addition:
        while branch.node_ptr() not in self.producer:  # a scale, for example
            branch = max(operands(branch), key=self.depth)
        end, last = self.producer[branch.node_ptr()], self.producer.get(shortcut.node_ptr())
        attended = last is None and keeps_raw_input(self.trace.layers[self.call.name])
        is_input = shortcut.node_ptr() in self.start or attended
        return _Addition(
            True,
            end.name if end.shape == self.call.shape else None,
            self._only_start(branch, self.start | self._ancestors(shortcut)),
            last.name if last else "" if is_input else None,
        )

    def _ancestors(self, node: Any) -> set[int]:
        """Addresses of the nodes on the way from ``node`` back to the input, with its own."""
        pending, visited = [node], set()
        while pending:
            node = pending.pop()
            if node.node_ptr() in visited or node.node_ptr() in self.start:
                continue
            visited.add(node.node_ptr())
            child = self.producer.get(node.node_ptr())
            pending.extend(child.inputs if child else operands(node))
        return visited

    def _only_start(self, branch: Any, start: set[int]) -> str | None:
        """Name of the one call on the way back from ``branch`` that takes the input, or None.

        ``start`` are the nodes of the input, and of all that the branch has in common with the shortcut.
        """
        names: set[str | None] = set()
        pending, visited = [branch], set()
        while pending:
            node = pending.pop()
            if node.node_ptr() in visited:
                continue
            visited.add(node.node_ptr())
            child = self.producer.get(node.node_ptr())
            if node.node_ptr() in start:
                names.add(None)  # taken by the block's own forward
            elif child is None:
                pending.extend(operands(node))
            else:
                if {n.node_ptr() for n in child.inputs} & start:
                    names.add(child.name)
                pending.extend(n for n in child.inputs if n.node_ptr() not in start)
        return names.pop() if len(names) == 1 else None
