"""Attention mechanisms for computer vision on PaddlePaddle.

Public names are loaded on first use, so that a program can still choose its
number of CPU threads (``OMP_NUM_THREADS``) after ``import paddle_attention``
and before Paddle itself is loaded.
"""

import importlib
import zlib  # noqa: F401  before Paddle 2.6, whose own copy otherwise makes OpenCV crash on PNG files
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_EXPORTS = {
    "SEBlock": "layers",
    "CBAM": "layers",
    "ChannelAttention": "layers",
    "SpatialAttention": "layers",
    "register_attention": "registry",
    "build_attention": "registry",
    "list_attentions": "registry",
    "get_attention": "registry",
    "insert_attention": "insertion",
    "describe_blocks": "insertion",
    "list_networks": "networks",
}

__all__ = [
    "CBAM",
    "ChannelAttention",
    "SEBlock",
    "SpatialAttention",
    "__version__",
    "build_attention",
    "describe_blocks",
    "get_attention",
    "insert_attention",
    "list_attentions",
    "list_networks",
    "register_attention",
]

if TYPE_CHECKING:
    from .insertion import describe_blocks, insert_attention
    from .layers import CBAM, ChannelAttention, SEBlock, SpatialAttention
    from .networks import list_networks
    from .registry import build_attention, get_attention, list_attentions, register_attention


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_EXPORTS})
