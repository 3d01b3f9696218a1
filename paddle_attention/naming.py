"""Look-ups by name whose errors name the nearest known words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the known words closest to ``word``, else ``""``."""
    folded = {str(k).lower(): str(k) for k in known}
    near = difflib.get_close_matches(str(word).lower(), folded, n=3, cutoff=0.5)
    return "; did you mean " + " or ".join(repr(folded[k]) for k in near) + "?" if near else ""


def lookup(kind: str, name: object, table: Mapping[str, T]) -> T:
    """``table[name]``; raises ValueError listing the nearest and all known names of this ``kind``."""
    if not isinstance(name, str) or name not in table:
        known = ", ".join(sorted(table))
        raise ValueError(f"unknown {kind} {name!r}{did_you_mean(name, table)} (known: {known})")
    return table[name]
