"""Attention layers, one mechanism per file."""

from .bam import BAM
from .cbam import CBAM, ChannelAttention, SpatialAttention
from .ccnet import RCCA, CrissCrossAttention
from .coord import CoordAttention
from .danet import CAM, PAM, DAHead, DAModule
from .double_attention import DoubleAttention
from .eca import ECA
from .ema import EMAU
from .external import ExternalAttention
from .fca import FcaLayer
from .gather_excite import GatherExcite
from .gc import GCBlock, SimplifiedNonLocal
from .gct import GCT
from .hard import HardAttention
from .non_local import NonLocal1D, NonLocal2D, NonLocal3D
from .ocnet import ASPOC, BaseOC, ObjectContextBlock, PyramidOC
from .polarized import PolarizedSelfAttention
from .psa import PSA, PSAModule, psa_mask
from .scale import MultiScaleNet, ScaleAttention
from .scse import scSE
from .se import SEBlock
from .sge import SGE
from .shuffle import ShuffleAttention
from .simam import SimAM
from .sk import SKBottleneck, SKConv
from .spatial_transformer import SpatialTransformer
from .split import SplitAttention
from .squeeze_attention import SqueezeAttention
from .transformer import (
    MultiHeadAttention,
    PositionalEncoding,
    SelfAttention2D,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from .triplet import TripletAttention

__all__ = [
    "ASPOC",
    "BAM",
    "CAM",
    "CBAM",
    "ECA",
    "EMAU",
    "GCT",
    "PAM",
    "PSA",
    "RCCA",
    "SGE",
    "BaseOC",
    "ChannelAttention",
    "CoordAttention",
    "CrissCrossAttention",
    "DAHead",
    "DAModule",
    "DoubleAttention",
    "ExternalAttention",
    "FcaLayer",
    "GCBlock",
    "GatherExcite",
    "HardAttention",
    "MultiHeadAttention",
    "MultiScaleNet",
    "NonLocal1D",
    "NonLocal2D",
    "NonLocal3D",
    "ObjectContextBlock",
    "PSAModule",
    "PolarizedSelfAttention",
    "PositionalEncoding",
    "PyramidOC",
    "SEBlock",
    "SKBottleneck",
    "SKConv",
    "ScaleAttention",
    "SelfAttention2D",
    "ShuffleAttention",
    "SimAM",
    "SimplifiedNonLocal",
    "SpatialAttention",
    "SpatialTransformer",
    "SplitAttention",
    "SqueezeAttention",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "TripletAttention",
    "psa_mask",
    "scSE",
]
