"""What is asked for, parsed once: names, arguments and places, without a look at any network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..naming import did_you_mean
from ..registry import AttentionEntry, check_arguments, get_attention

PLACEMENTS = ("residual", "block", "stage", "pre", "identity")
PLACE_KEYS = ("at", "stages", "blocks", "before")
_KEYS = ("name", *PLACE_KEYS)


@dataclass(frozen=True)
class Request:
    """One item of a list of attentions.

    Attributes:
        name: registry name of the mechanism.
        arguments: of the mechanism, without ``channels``.
        at: one of :data:`PLACEMENTS`, ``'conv'``, or a pattern of layer names; empty where the network decides.
        stages, blocks: numbers from 1 (-1 is the last), or None for all.
        before: transform the input of the layers that the pattern matches.
        replaces: the mechanism takes the place of a convolution.
        path: where the item stands, for errors: ``'attention.1'``, or ``''`` for a single one.
    """

    name: str
    arguments: dict
    at: str
    stages: tuple | None
    blocks: tuple | None
    before: bool
    replaces: bool
    path: str

    @property
    def specification(self) -> dict[str, Any]:
        """The same as an item of a YAML's list."""
        places = {"at": self.at, "stages": self.stages, "blocks": self.blocks, "before": self.before}
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in places.items() if v}
        return {"name": self.name, **given, **self.arguments}

    @property
    def at_first_convolution(self) -> bool:
        """Whether the place is the first convolution of each block."""
        return self.replaces and self.at == "conv"

    @property
    def by_blocks(self) -> bool:
        """Whether the place depends on the network's blocks."""
        chosen = self.stages is not None or self.blocks is not None
        return self.at_first_convolution or self.at in ("", *PLACEMENTS) or chosen

    def by_default(self, at: str) -> Request:
        """The same at another place, where none is asked for."""
        return dataclasses.replace(self, at=at) if not self.at and not self.replaces else self


class PlaceError(ValueError):
    """Attention cannot be put on a layer that a place means."""


@contextlib.contextmanager
def errors_at(path: str) -> Iterator[None]:
    """ValueErrors name the item of the list of attentions that they are about."""
    try:
        yield
    except ValueError as error:
        kind = PlaceError if isinstance(error, PlaceError) else ValueError
        raise kind(f"{path}: {error}" if path else str(error)) from error


def parse_requests(
    attention: Any, at: Any = None, stages: Any = None, blocks: Any = None, before: Any = False
) -> list[Request]:
    """A list of :class:`Request`; the arguments are those of :func:`insert_attention`.

    Raises:
        ValueError: naming the item, for whatever can be told without a network.
    """
    several = isinstance(attention, (list, tuple))
    items = attention if several else [attention]
    if not items:
        raise ValueError("attention is an empty list; give at least one mechanism")
    defaults, requests = {"at": at, "stages": stages, "blocks": blocks, "before": before}, []
    for i, item in enumerate(items):
        path = f"attention.{i}" if several else ""
        with errors_at(path):
            requests.append(_parse(item, defaults, path))
    return requests


def _parse(item: Any, defaults: dict[str, Any], path: str) -> Request:
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping):
        raise ValueError(
            f"attention must be a name or a dict such as {{'name': 'SE', 'reduction': 16}}, but got {item!r}"
        )
    if "name" not in item:
        near = next((hint for key in item if (hint := did_you_mean(key, _KEYS))), "")
        raise ValueError(f"attention {dict(item)!r} has no 'name'{near}; such as {{'name': 'SE'}}")
    if not isinstance(item["name"], str):
        raise ValueError(f"attention {dict(item)!r}: 'name' must be the name of a mechanism, such as 'SE'")
    entry = get_attention(item["name"])
    arguments = {k: v for k, v in item.items() if k not in _KEYS}
    check_arguments(entry.name, arguments, _KEYS)
    place = {**defaults, **{k: item[k] for k in defaults if k in item}}
    at = _parse_place(entry, place["at"])
    return Request(
        entry.name,
        arguments,
        at,
        _parse_numbers("stages", place["stages"]),
        _parse_numbers("blocks", place["blocks"]),
        _parse_before(entry, at, place["before"]),
        entry.replaces_conv,
        path,
    )


def _parse_place(entry: AttentionEntry, at: Any) -> str:
    if at is None:
        return "conv" if entry.replaces_conv else ""
    if not isinstance(at, str) or not at:
        raise ValueError(f"at must be one of {PLACEMENTS} or a pattern of layer names, but got {at!r}")
    if at in PLACEMENTS and entry.replaces_conv:
        raise ValueError(
            f"at={at!r}: {entry.name} takes the place of a convolution; use at='conv' or a pattern"
        )
    return at


def _parse_before(entry: AttentionEntry, at: str, before: Any) -> bool:
    if not isinstance(before, bool):
        raise ValueError(f"before must be true or false, but got {before!r}")
    if before and entry.replaces_conv:
        raise ValueError(f"before=True: {entry.name} takes the place of a convolution; leave it out")
    if before and at in ("", *PLACEMENTS):
        raise ValueError(f"before=True goes with a pattern of layer names, but got at={at or None!r}")
    return before


def _parse_numbers(what: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for v in values:
        if isinstance(v, bool) or not isinstance(v, int) or v == 0:
            raise ValueError(f"{what} are integers counted from 1 (-1 is the last), but got {value!r}")
    if not values:
        raise ValueError(f"{what} is empty; leave it out to mean all {what}")
    return values
