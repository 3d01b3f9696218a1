"""Paddle's operators, watched while a network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Operator = tuple[Any, str]  # who has it, and its name


@contextlib.contextmanager
def replaced(
    operators: Iterable[tuple[Operator, Callable[[Callable[..., Any]], Callable[..., Any]]]],
) -> Iterator[None]:
    """Each operator is what its function makes of it, inside; afterwards all are what they were."""
    saved: list[tuple[Any, str, Any]] = []
    try:
        for (owner, name), replace in operators:
            saved.append((owner, name, getattr(owner, name)))
            setattr(owner, name, replace(getattr(owner, name)))
        yield
    finally:
        for owner, name, function in reversed(saved):
            setattr(owner, name, function)
