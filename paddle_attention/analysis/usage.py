"""Whether a long run's use of memory, threads and file descriptors stays what it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_GROWTH = 1.08  # of memory, from the first third to the last
_LEAST = 30  # looks, below which nothing can be said


def read_usage(pid: int) -> tuple[int, int, int] | None:
    """``(descriptors, threads, kB of memory)`` of a process, or None."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0])
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), memory
    except (OSError, IndexError):
        return None


def require_flat(marks: Sequence[tuple[int, int, int]]) -> str:
    """Raise if the last third of the looks shows more of anything than the first; returns what to print."""
    if len(marks) < _LEAST:
        raise AssertionError(f"only {len(marks)} looks")
    third = len(marks) // 3
    first, last = (
        [max(mark[i] for mark in part) for i in range(3)] for part in (marks[:third], marks[-third:])
    )
    for what, early, late in zip(("descriptors", "threads"), first, last, strict=False):
        if late > early + 1:
            raise AssertionError(f"{what}: {early} early, {late} late")
    if last[2] > first[2] * _GROWTH:
        raise AssertionError(f"memory: {first[2]} kB early, {last[2]} kB late")
    return f"{last[2] / first[2]:.3f} of the early memory, {last[1]} threads, {last[0]} descriptors"
