"""Results of long computations, which are gone on with: JSON files that are whole at every moment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .atomic import write_atomically


def read_results(path: str | None, of: type | tuple[type, ...], option: str = "--results") -> dict[str, Any]:
    """What an earlier run has written to ``path``; nothing without a path or where there is no file.

    Args:
        path (str, optional): a JSON file.
        of (type or tuple): what every value must be.
        option (str): by which the user has named it, for messages.

    Raises:
        ValueError: if it is no such file.
    """
    if not path or not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError as error:
        raise ValueError(f"{option} {path} is no JSON ({error}); remove it to begin again") from error
    if not isinstance(found, dict) or not all(isinstance(value, of) for value in found.values()):
        raise ValueError(f"{option} {path} is not what this command has written; remove it to begin again")
    return found


def write_results(path: str | None, results: Mapping[str, Any]) -> None:
    """Write ``results`` to ``path``, in the order of their names, if there is a path."""
    if path:
        content = json.dumps(dict(sorted(results.items())), indent=1).encode()
        write_atomically(path, lambda file: file.write(content))
