"""The YAMLs that come with this library, found by name from anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from ..naming import did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE.parent / "ppcls_configs", _PACKAGE / "ppcls_configs")  # of a checkout, of a wheel


def shipped_configs() -> dict[str, Path]:
    """The YAMLs by their paths below ``ppcls_configs``, sorted; empty where there are none."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    paths = sorted(folder.rglob("*.yaml")) if folder is not None else []
    return {path.relative_to(str(folder)).as_posix(): path for path in paths}


def find_config(name: str) -> str:
    """The path of a YAML: ``name`` itself if there is such a file, else the shipped one of this name.

    Args:
        name (str): a path, or what is written after ``ppcls_configs/``, or just the last part of it.

    Raises:
        FileNotFoundError: if there is none, naming the nearest.
        ValueError: if several have this name.
    """
    if os.path.isfile(name):
        return name
    known, wanted = shipped_configs(), Path(name).as_posix().rpartition("ppcls_configs/")[2]
    found = [path for key, path in known.items() if key == wanted or key.endswith("/" + wanted)]
    if len(found) > 1:
        raise ValueError(
            f"{name!r} is the name of several configs: {', '.join(map(str, found))}; give one of these"
        )
    if not found:
        last = [key.rpartition("/")[2] for key in known]
        raise FileNotFoundError(
            f"there is no config file {name!r}{did_you_mean(os.path.basename(name), last)}"
            " (python -m paddle_attention configs lists those that come with it)"
        )
    return str(found[0])
