"""Checks of the operators' arguments."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..config import ConfigError


def pair(name: str, value: Any) -> tuple[int, int]:
    values = [value, value] if isinstance(value, int) else list(value)
    if len(values) != 2 or any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"{name} must be a positive integer or two of them, but got {value!r}")
    return values[0], values[1]


def choice(name: str, value: Any, known: Collection[Any]) -> Any:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, but got {value!r}")
    return value


def as_list(items: Any, path: str) -> list[Any]:
    if not isinstance(items, list):
        raise ConfigError(f"{path}: must be a list of operators, but got {items!r}")
    return items


def as_fill(name: str, value: Any) -> tuple[int, ...]:
    """A colour of three values from 0 to 255; raises ValueError for another."""
    if not isinstance(value, (list, tuple)) or len(value) != 3 or any(v not in range(256) for v in value):
        raise ValueError(f"{name} must be three integers from 0 to 255, but got {value!r}")
    return tuple(value)
