"""The networks that are compared: what is inserted into the backbone, and how a table calls it."""

from dataclasses import dataclass, field

import paddle
from paddle import nn

from paddle_attention import ChannelAttention, register_attention

BACKBONE = "CifarResNet20"


@register_attention(
    "CBAMOfTheNotes",
    paper="CBAM as a widespread listing has it",
    arxiv=None,
    year=2020,
    domain="mixed",
    computed_by="avg and max pool + FC, then the mean of everything and an argmax + conv",
    applied_by="scale",
)
class CBAMOfTheNotes(nn.Layer):
    """CBAM with the two mistakes of a widespread listing, changed only as far as it must be to run.

    The spatial gate sees the mean of the whole tensor, one number, instead of each pixel's mean
    over channels, and the *index* of the greatest channel, which has no gradient, instead of its
    value. The listing joins the two although their shapes do not allow it; here the number is
    expanded over the map. There is no normalisation after its convolution.
    """

    def __init__(self, channels, reduction=16, kernel_size=7):
        super().__init__()
        self.channel_gate = ChannelAttention(channels, reduction)
        self.conv = nn.Conv2D(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x):
        x = self.channel_gate(x)
        index = paddle.argmax(x, axis=1, keepdim=True).astype(x.dtype)
        mean = paddle.mean(x).reshape([1, 1, 1, 1]).expand(index.shape)
        return x * nn.functional.sigmoid(self.conv(paddle.concat([mean, index], axis=1)))


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        title: in the table.
        attention: for ``Arch.attention``; empty for the bare backbone.
    """

    title: str
    attention: tuple = field(default_factory=tuple)

    def arch(self, class_num):
        arch = {"name": "AttentionNet", "class_num": class_num, "backbone": {"name": BACKBONE}}
        return {**arch, "attention": [dict(item) for item in self.attention]}


def _residual(name, **arguments):
    return ({"name": name, "at": "residual", **arguments},)


_R = 4  # of 16 channels, 16 would leave one hidden channel

#: What is compared first, and with the most seeds.
MAIN = {
    "baseline": Network("ResNet-20"),
    "se": Network("+ SE", _residual("SE", reduction=_R)),
    "eca": Network("+ ECA", _residual("ECA")),
    "cbam": Network("+ CBAM", _residual("CBAM", reduction=_R)),
    "cbam_notes": Network("+ CBAM（笔记写法）", _residual("CBAMOfTheNotes", reduction=_R)),
    "coord": Network("+ CoordAttention", _residual("CoordAttention")),
    "simam": Network("+ SimAM", _residual("SimAM")),
    "bam": Network("+ BAM", ({"name": "BAM", "at": "stage", "stages": [1, 2], "reduction": _R},)),
}

#: What follows as hours allow: the papers' own ablations.
MORE = {
    "se_r2": Network("SE，r = 2", _residual("SE", reduction=2)),
    "se_r8": Network("SE，r = 8", _residual("SE", reduction=8)),
    "se_r16": Network("SE，r = 16", _residual("SE", reduction=16)),
    "se_pre": Network("SE，残差分支之前", ({"name": "SE", "at": "pre", "reduction": _R},)),
    "se_post": Network("SE，相加之后", ({"name": "SE", "at": "block", "reduction": _R},)),
    "se_identity": Network("SE，捷径上", ({"name": "SE", "at": "identity", "reduction": _R},)),
    "cbam_avg": Network("CBAM，只用均值", _residual("CBAM", reduction=_R, pool_types=["avg"])),
    "cbam_channel": Network("CBAM，只有通道", _residual("CBAM", reduction=_R, no_spatial=True)),
    "spatial": Network("只有 CBAM 的空间部分", _residual("SpatialAttention")),
}

NETWORKS = {**MAIN, **MORE}
