"""Attention mechanisms for computer vision on PaddlePaddle.

Public names are loaded on first use, so that a program can still choose its
number of CPU threads (``OMP_NUM_THREADS``) after ``import paddle_attention``
and before Paddle itself is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib  # before Paddle 2.6, whose own copy makes OpenCV crash on PNG files
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names of other packages than "layers", all of whose names are public here, too.
_EXPORTS = {
    "build_attention": "registry",
    "get_attention": "registry",
    "list_attentions": "registry",
    "register_attention": "registry",
    "attention_disabled": "insertion",
    "describe_blocks": "insertion",
    "insert_attention": "insertion",
    "remove_attention": "insertion",
    "save_attention": "insertion",
    "watch_attention": "insertion",
    "list_networks": "networks",
    "load_torch_weights": "checkpoint",
}

if TYPE_CHECKING:  # for editors
    from .checkpoint import load_torch_weights
    from .insertion import (
        attention_disabled,
        describe_blocks,
        insert_attention,
        remove_attention,
        save_attention,
        watch_attention,
    )
    from .layers import *  # noqa: F403
    from .networks import list_networks
    from .registry import build_attention, get_attention, list_attentions, register_attention


def __getattr__(name: str) -> Any:
    if name == "__all__":
        value = ["__version__", *_EXPORTS, *_layers().__all__]
    elif name in _EXPORTS:
        value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    elif (
        name.startswith("_")
        or importlib.util.find_spec(f"{__name__}.{name}")
        or name not in _layers().__all__
    ):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = getattr(_layers(), name)
    globals()[name] = value
    return value


def _layers() -> ModuleType:
    return importlib.import_module(".layers", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
