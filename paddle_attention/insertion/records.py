"""What was inserted into a network, kept with it: to tell what still runs, to replay it, to take it out again."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import nn

from ..trial import trial
from .hooks import attention_hooks
from .trace import is_static

_RECORDS = "_attention_records"
_STANDS_FOR = "_stands_for"


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


@dataclass(frozen=True)
class Record:
    """One call of :func:`insert_attention`.

    Attributes:
        specification: the mechanisms with their arguments and places, as in a YAML.
        input_shape: ``[C, H, W]`` of the trial run, or None where it was found.
        insertions: what came of it.
    """

    specification: tuple[Mapping[str, Any], ...]
    input_shape: tuple[int, ...] | None
    insertions: tuple[Insertion, ...]


class StandsFor:
    """Kept by a mechanism that has replaced a convolution: which one, and under which name.

    It is no sublayer: its weights are neither trained nor saved.
    """

    def __init__(self, key: str, original: nn.Layer) -> None:
        self.key, self.original = key, original


def record(model: nn.Layer, entry: Record) -> None:
    """Add ``entry`` to what was inserted into ``model``."""
    setattr(model, _RECORDS, [*records(model), entry])


def records(model: nn.Layer) -> list[Record]:
    """What was inserted into ``model`` itself, call by call."""
    return list(vars(model).get(_RECORDS, ()))


def set_records(model: nn.Layer, entries: list[Record]) -> None:
    """Replace what was recorded of ``model``."""
    vars(model).pop(_RECORDS, None)
    if entries:
        setattr(model, _RECORDS, entries)


def stand_for(layer: nn.Layer, key: str, original: nn.Layer) -> None:
    """Note that ``layer`` has replaced ``original``, named ``key``."""
    setattr(layer, _STANDS_FOR, StandsFor(key, original))


def stands_for(layer: nn.Layer) -> StandsFor | None:
    """The convolution that ``layer`` has replaced; None where it has not."""
    return vars(layer).get(_STANDS_FOR)


@dataclass
class AttentionRuns:
    """How often each attention layer ran, see :func:`watch_attention`.

    Attributes:
        expected: keys of all attention layers that were inserted.
        missing: keys of those that no layer calls any longer.
        calls: key to number of calls.
    """

    expected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    calls: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def ran(self) -> tuple[str, ...]:
        """Keys of those that ran."""
        return tuple(key for key in self.expected if self.calls[key])

    @property
    def silent(self) -> tuple[str, ...]:
        """Keys of those that did not."""
        return tuple(key for key in self.expected if not self.calls[key])


@contextlib.contextmanager
def watch_attention(model: nn.Layer) -> Iterator[AttentionRuns]:
    """Count the calls of all attention that was inserted into a network, or into parts of it.

    Conversions that replace layers (re-parameterisation, quantisation, pruning) can drop what was put on
    them; forward passes made within the ``with`` show it::

        with watch_attention(model) as runs:
            model(images)
        print(len(runs.ran), "of", len(runs.expected), "ran; not:", runs.silent)

    Args:
        model (paddle.nn.Layer): any network.

    Yields:
        :class:`AttentionRuns`.
    """
    expected, present, handles = [], set(), []
    runs = AttentionRuns()
    for prefix, part in model.named_sublayers(include_self=True):
        names = {i.key: f"{prefix}.{i.key}" if prefix else i.key for r in records(part) for i in r.insertions}
        expected += [name for key, name in names.items() if not _cut_off(part, key)]
        for key, attention in _found(part) if names else ():
            if key in names:
                present.add(names[key])

                def count(*_: Any, name: str = names[key]) -> None:
                    runs.calls[name] += 1

                handles.append(attention.register_forward_pre_hook(count))
    runs.expected = tuple(dict.fromkeys(expected))
    runs.missing = tuple(key for key in runs.expected if key not in present)
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def check_attention(model: nn.Layer, *inputs: Any) -> None:
    """Raise unless all attention that was inserted into a network is still in use.

    Args:
        model (paddle.nn.Layer): any network; one without inserted attention passes.
        *inputs: what to call it with, once, in evaluation mode. Without them it is only seen that
            some layer still calls each attention, not that this layer runs.

    Raises:
        ValueError: naming what is lost.
    """
    inputs = (
        () if any(map(is_static, model.sublayers(include_self=True))) else inputs
    )  # a program calls no hook
    with trial(model), paddle.no_grad(), watch_attention(model) as runs:
        if inputs:
            model(*inputs)
    lost = runs.silent if inputs else runs.missing
    if lost:
        names = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise ValueError(
            f"{len(lost)} of {len(runs.expected)} attention layers of {type(model).__name__} do not run: {names}; "
            "something has replaced or merged the layers that they were on. Insert attention after it, or put it "
            "elsewhere, such as with at='block'"
        )


def _found(network: nn.Layer) -> Iterator[tuple[str, nn.Layer]]:
    """Keys and attention layers that are still in ``network``, wherever they are now."""
    for layer in network.sublayers(include_self=True):
        for hook in attention_hooks(layer):
            if hook.key and hook.enabled:
                yield hook.key, layer._sub_layers[hook.name]
        replaced = stands_for(layer)
        if replaced is not None:
            yield replaced.key, layer


def _cut_off(network: nn.Layer, key: str) -> bool:
    """Whether the place of ``key`` lies in a part that PaddleClas' ``stop_after`` has cut off on purpose."""
    for name in key.split("."):
        network = network._sub_layers.get(name)
        if network is None:
            return False
        if type(network).__name__ == "Identity" and not type(network).__module__.startswith("paddle."):
            return True
    return False
