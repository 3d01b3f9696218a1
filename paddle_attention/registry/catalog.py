"""Registry entries of the built-in mechanisms.

Layers that keep a feature map's shape, and those that take the place of a convolution. Parts
and layers of other shapes (``ObjectContextBlock``, ``NonLocal1D``, ``MultiHeadAttention``...) are
classes only.
"""

from .. import layers
from .core import register_attention

# Where the positions lie does not matter to these.
_TAKE_TOKENS = [
    "SE",
    "ECA",
    "ChannelAttention",
    "CAM",
    "PAM",
    "GCBlock",
    "SimplifiedNonLocal",
    "EMAU",
    "GCT",
    "SGE",
    "DoubleAttention",
    "ExternalAttention",
    "SelfAttention2D",
    "SimAM",
    "ShuffleAttention",
    "PolarizedSelfAttention",
]


def _register(name, cls, paper, arxiv, year, domain, computed_by, applied_by, replaces_conv=False):
    register_attention(
        name,
        paper=paper,
        arxiv=arxiv,
        year=year,
        domain=domain,
        computed_by=computed_by,
        applied_by=applied_by,
        replaces_conv=replaces_conv,
        takes_tokens=name in _TAKE_TOKENS,
    )(cls)


_register(
    "SE",
    layers.SEBlock,
    "Squeeze-and-Excitation Networks",
    "1709.01507",
    2017,
    "channel",
    "avg pool + FC",
    "scale",
)
_CBAM = ("CBAM: Convolutional Block Attention Module", "1807.06521", 2018)
_register(
    "CBAM", layers.CBAM, *_CBAM, "mixed", "avg and max pool + FC, then channel max and mean + conv", "scale"
)
_register("ChannelAttention", layers.ChannelAttention, *_CBAM, "channel", "avg and max pool + FC", "scale")
_register(
    "SpatialAttention", layers.SpatialAttention, *_CBAM, "spatial", "channel max and mean + conv", "scale"
)
_register(
    "BAM",
    layers.BAM,
    "BAM: Bottleneck Attention Module",
    "1807.06514",
    2018,
    "mixed",
    "avg pool + FC, times dilated conv",
    "scale",
)
_register(
    "ECA",
    layers.ECA,
    "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    "1910.03151",
    2019,
    "channel",
    "avg pool + 1-D conv",
    "scale",
)
_register(
    "SGE",
    layers.SGE,
    "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
    "1905.09646",
    2019,
    "mixed",
    "similarity to the group's mean",
    "scale",
)
_register(
    "NonLocal2D",
    layers.NonLocal2D,
    "Non-local Neural Networks",
    "1711.07971",
    2017,
    "spatial",
    "matmul",
    "matmul, add",
)
_GC = ("GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", "1904.11492", 2019)
_register("GCBlock", layers.GCBlock, *_GC, "mixed", "attention pool + FC", "add or scale")
_register("SimplifiedNonLocal", layers.SimplifiedNonLocal, *_GC, "spatial", "conv + softmax", "matmul, add")
_register(
    "PSAModule",
    layers.PSAModule,
    "PSANet: Point-wise Spatial Attention Network for Scene Parsing",
    None,
    2018,
    "spatial",
    "conv",
    "matmul, concat",
)
_DA = ("Dual Attention Network for Scene Segmentation", "1809.02983", 2018)
_register("PAM", layers.PAM, *_DA, "spatial", "matmul", "matmul, add")
_register("CAM", layers.CAM, *_DA, "channel", "matmul", "matmul, add")
_register("DAModule", layers.DAModule, *_DA, "mixed", "matmul", "matmul, add")
_OC = ("OCNet: Object Context Network for Scene Parsing", "1809.00916", 2018)
_register("BaseOC", layers.BaseOC, *_OC, "spatial", "matmul", "matmul, concat")
_register("PyramidOC", layers.PyramidOC, *_OC, "spatial", "matmul in blocks", "matmul, concat")
_register("ASPOC", layers.ASPOC, *_OC, "spatial", "matmul", "matmul, concat")
_CC = ("CCNet: Criss-Cross Attention for Semantic Segmentation", "1811.11721", 2018)
_register(
    "CrissCrossAttention",
    layers.CrissCrossAttention,
    *_CC,
    "spatial",
    "matmul in rows and columns",
    "matmul, add",
)
_register("RCCA", layers.RCCA, *_CC, "spatial", "matmul in rows and columns", "matmul, concat")
_register(
    "EMAU",
    layers.EMAU,
    "Expectation-Maximization Attention Networks for Semantic Segmentation",
    "1907.13426",
    2019,
    "spatial",
    "expectation-maximisation",
    "matmul, add",
)
_register(
    "SqueezeAttention",
    layers.SqueezeAttention,
    "Squeeze-and-Attention Networks for Semantic Segmentation",
    "1909.03402",
    2019,
    "mixed",
    "avg pool + conv",
    "scale, add",
)
_register(
    "SelfAttention2D",
    layers.SelfAttention2D,
    "Attention Is All You Need",
    "1706.03762",
    2017,
    "spatial",
    "matmul",
    "matmul, add",
)
_register(
    "HardAttention",
    layers.HardAttention,
    "Recurrent Models of Visual Attention",
    "1406.6247",
    2014,
    "mixed",
    "conv or FC, top-k",
    "selection",
)
_register(
    "SpatialTransformer",
    layers.SpatialTransformer,
    "Spatial Transformer Networks",
    "1506.02025",
    2015,
    "spatial",
    "conv + FC",
    "resampling",
)
_register(
    "CoordAttention",
    layers.CoordAttention,
    "Coordinate Attention for Efficient Mobile Network Design",
    "2103.02907",
    2021,
    "mixed",
    "row and column avg pool + conv",
    "scale",
)
_register(
    "SimAM",
    layers.SimAM,
    "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
    None,
    2021,
    "mixed",
    "distance to the channel's mean",
    "scale",
)
_register(
    "TripletAttention",
    layers.TripletAttention,
    "Rotate to Attend: Convolutional Triplet Attention Module",
    "2010.03045",
    2020,
    "mixed",
    "max and mean of each axis + conv",
    "scale",
)
_register(
    "scSE",
    layers.scSE,
    "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
    "1803.02579",
    2018,
    "mixed",
    "avg pool + FC, and conv",
    "scale",
)
_register(
    "GatherExcite",
    layers.GatherExcite,
    "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
    "1810.12348",
    2018,
    "mixed",
    "avg pool or conv",
    "scale",
)
_register(
    "GCT",
    layers.GCT,
    "Gated Channel Transformation for Visual Recognition",
    "1909.11519",
    2019,
    "channel",
    "channel norms",
    "scale",
)
_register(
    "FcaLayer",
    layers.FcaLayer,
    "FcaNet: Frequency Channel Attention Networks",
    "2012.11879",
    2020,
    "channel",
    "cosine transform + FC",
    "scale",
)
_register(
    "DoubleAttention",
    layers.DoubleAttention,
    "A^2-Nets: Double Attention Networks",
    "1810.11579",
    2018,
    "spatial",
    "conv + softmax, twice",
    "matmul, add",
)
_register(
    "ExternalAttention",
    layers.ExternalAttention,
    "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    "2105.02358",
    2021,
    "spatial",
    "matmul with a memory",
    "matmul, add",
)
_register(
    "PolarizedSelfAttention",
    layers.PolarizedSelfAttention,
    "Polarized Self-Attention: Towards High-quality Pixel-wise Regression",
    "2107.00782",
    2021,
    "mixed",
    "attention pool + conv",
    "scale",
)
_register(
    "ShuffleAttention",
    layers.ShuffleAttention,
    "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
    "2102.00240",
    2021,
    "mixed",
    "avg pool, and group norm",
    "scale",
)
_register(
    "SKConv",
    layers.SKConv,
    "Selective Kernel Networks",
    "1903.06586",
    2019,
    "branch",
    "avg pool + FC",
    "weighted sum",
    replaces_conv=True,
)
_register(
    "SplitAttention",
    layers.SplitAttention,
    "ResNeSt: Split-Attention Networks",
    "2004.08955",
    2020,
    "branch",
    "avg pool + FC",
    "weighted sum",
    replaces_conv=True,
)
