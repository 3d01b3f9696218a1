"""Which of PaddleClas' recipes the embedded engine trains, and why not the others."""

from __future__ import annotations

import collections
import logging
import os
import re
from collections.abc import Iterator

from .. import ppcls
from ..config import ConfigError
from ..engine import check_recipe


def recipe_reasons(folder: str) -> dict[str, str]:
    """Every YAML below ``folder``, relative to it, to ``''`` or why the engine refuses it.

    Raises:
        FileNotFoundError: if there is no YAML.
    """
    paths = sorted(_yamls(folder))
    if not paths:
        raise FileNotFoundError(f"there is no YAML file below {folder!r}")
    logger = logging.getLogger("ppcls")
    level, reasons = logger.level, {}
    logger.setLevel(logging.ERROR)
    try:
        for path in paths:
            reasons[os.path.relpath(path, folder)] = _reason(path)
    finally:
        logger.setLevel(level)
    return reasons


def _yamls(folder: str) -> Iterator[str]:
    if os.path.isfile(folder):
        yield folder
    for directory, _, names in os.walk(folder):
        yield from (os.path.join(directory, name) for name in names if name.endswith((".yaml", ".yml")))


def _reason(path: str) -> str:
    try:
        check_recipe(ppcls.load_config(path))
    except ConfigError as error:
        return " ".join(str(error).split())
    except (ValueError, OSError, TypeError, AttributeError) as error:  # no recipe at all
        return f"is no recipe for training: {' '.join(str(error).split())}"
    return ""


def summary(reasons: dict[str, str]) -> list[list[str]]:
    """Rows ``[how many, why, an example]``, most frequent first."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for path, reason in reasons.items():
        if reason:
            # The key without its place in a list, and what is wrong with it, without the remedy.
            kinds[re.sub(r"\.\d+\b", "", re.split(r"; | \(", reason)[0])].append(path)
    return [
        [str(len(paths)), kind, paths[0]]
        for kind, paths in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
