"""Checks of the operators' arguments."""

from __future__ import annotations

import re
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


def as_number(value: Any) -> float:
    """A number, also when the YAML holds a quotient such as ``1.0/255.0``."""
    if isinstance(value, str) and re.fullmatch(r"\s*[\d.e+-]+\s*(/\s*[\d.e+-]+\s*)?", value):
        over, _, under = value.partition("/")
        return float(over) / float(under or 1)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number or a quotient of two, but got {value!r}")
    return value
