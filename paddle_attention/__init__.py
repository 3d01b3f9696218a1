"""Attention mechanisms for computer vision on PaddlePaddle.

Public names are loaded on first use, so that a program can still choose its
number of CPU threads (``OMP_NUM_THREADS``) after ``import paddle_attention``
and before Paddle itself is loaded.
"""

import importlib
import zlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_NAMES = {
    "layers": """
        ASPOC BAM BaseOC CAM CBAM ChannelAttention CoordAttention CrissCrossAttention DAHead
        DAModule DoubleAttention ECA EMAU ExternalAttention FcaLayer GCBlock GCT GatherExcite HardAttention
        MultiHeadAttention MultiScaleNet NonLocal1D NonLocal2D NonLocal3D ObjectContextBlock PAM PSA
        PSAModule PolarizedSelfAttention PositionalEncoding PyramidOC RCCA SEBlock SGE SKBottleneck
        SKConv ScaleAttention SelfAttention2D ShuffleAttention SimAM SimplifiedNonLocal
        SpatialAttention SpatialTransformer SplitAttention SqueezeAttention TransformerDecoderLayer
        TransformerEncoderLayer TripletAttention psa_mask scSE
    """,
    "registry": "build_attention get_attention list_attentions register_attention",
    "insertion": "describe_blocks insert_attention",
    "networks": "list_networks",
    "torch_weights": "load_torch_weights",
}
_EXPORTS = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:  # for editors
    from .insertion import describe_blocks, insert_attention
    from .layers import *  # noqa: F403
    from .networks import list_networks
    from .registry import build_attention, get_attention, list_attentions, register_attention
    from .torch_weights import load_torch_weights


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_EXPORTS})
