"""Which of PaddleClas' recipes the embedded engine and PaddleClas' own train, and why not the others."""

from __future__ import annotations

import collections
import logging
import os
import re
from collections.abc import Iterator

from .. import ppcls
from ..analysis import markdown_table
from ..config import ConfigError
from ..engine import check_recipe
from ..files import read_results, write_results
from ..ppcls.starts import training_starts


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


def own_reasons(
    folder: str, tree: str, paths: list[str], workers: int, limit: int, results: str | None
) -> Iterator[tuple[str, str]]:
    """Every one of ``paths``, relative to ``folder``, and ``''`` or why PaddleClas' own engine does not start it.

    Args:
        folder (str): of the YAMLs.
        tree (str): PaddleClas' source tree.
        paths (list of str): relative to ``folder``.
        workers (int): processes at a time.
        limit (int): seconds for one.
        results (str, optional): a JSON file of what is done, to go on from.
    """
    done = read_results(results, str)
    yield from ((path, done[path]) for path in paths if path in done)
    todo = {os.path.abspath(os.path.join(folder, path)): path for path in paths if path not in done}
    for whole, reason in training_starts(tree, list(todo), workers, limit):
        done[todo[whole]] = reason
        write_results(results, done)
        yield todo[whole], reason


def document(embedded: dict[str, str], own: dict[str, str] | None = None) -> str:
    """The Markdown text: how many of each folder either engine trains, and the reasons for the others."""
    engines = {"embedded engine": embedded, **({} if own is None else {"PaddleClas' engine": own})}
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for path in embedded:
        groups[path.split(os.sep)[0] if os.sep in path else "."].append(path)
    rows = [
        [group, len(paths), *(sum(not reasons[p] for p in paths) for reasons in engines.values())]
        for group, paths in sorted(groups.items())
    ]
    total = ["all", len(embedded), *(sum(not r for r in reasons.values()) for reasons in engines.values())]
    parts = [markdown_table(["folder", "YAMLs", *engines], [*rows, total] if len(rows) > 1 else [total])]
    for name, reasons in engines.items():
        found = summary(reasons)
        if found:
            parts.append(markdown_table(["YAMLs", f"why the {name} does not train them", "such as"], found))
    return "\n\n".join(parts)


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
