"""Add this library's networks to a PaddleClas checkout for good, and take them out again."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys

from ..files import write_atomically
from . import backbones

_LINE = "from paddle_attention.ppcls.backbones import *  # added by: python -m paddle_attention install\n"
_MARK = "# added by: python -m paddle_attention install"
_ANCHOR = "def get_apis("


def install(source_tree: str) -> bool:
    """Add one import to ``ppcls/arch/backbone/__init__.py``, next to PaddleClas' own backbones.

    Returns:
        bool: False if it was there already.

    Raises:
        FileNotFoundError: if ``source_tree`` is not a PaddleClas checkout.
        ValueError: if its list of backbones has an unknown form, or one of the names already.
        ModuleNotFoundError: if this library cannot be imported from there.
    """
    path, text = _read(source_tree)
    if _MARK in text:
        return False
    lines = text.splitlines(keepends=True)
    at = next((i for i, line in enumerate(lines) if line.startswith(_ANCHOR)), None)
    if at is None:
        raise ValueError(f"{path} has no line that starts with {_ANCHOR!r}; nothing was changed")
    while at > 0 and (lines[at - 1].startswith("#") or not lines[at - 1].strip()):
        at -= 1
    if taken := sorted(set(re.findall(r"\w+", text)) & set(backbones.__all__)):
        raise ValueError(
            f"{path} already has {', '.join(taken)}, which would be replaced; nothing was changed"
        )
    _check_importable(source_tree)
    _write(path, "".join([*lines[:at], _LINE, *lines[at:]]))
    return True


def uninstall(source_tree: str) -> bool:
    """Undo :func:`install`, leaving the file as it was.

    Returns:
        bool: False if there was nothing to undo.
    """
    path, text = _read(source_tree)
    if _MARK not in text:
        return False
    _write(path, "".join(line for line in text.splitlines(keepends=True) if _MARK not in line))
    return True


def _read(source_tree: str) -> tuple[str, str]:
    path = os.path.join(source_tree, "ppcls", "arch", "backbone", "__init__.py")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source_tree!r} is not a PaddleClas source tree: it has no {path}")
    with open(path, encoding="utf-8", newline="") as file:
        return path, file.read()


def _write(path: str, text: str) -> None:
    """Replace the file in one step, so that it is never half written, and keep its rights."""
    write_atomically(path, lambda file: file.write(text.encode()), stat.S_IMODE(os.stat(path).st_mode))


def _check_importable(source_tree: str) -> None:
    """PaddleClas runs from its own directory: the import must work from there too."""
    done = subprocess.run(
        [sys.executable, "-c", "import paddle_attention"],
        cwd=source_tree,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ModuleNotFoundError(
            "paddle_attention is not installed in this Python environment "
            f"({sys.executable}); run pip install paddle_attention (or pip install -e . in its "
            "checkout) first. Nothing was changed"
        )
