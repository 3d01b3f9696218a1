"""Bottleneck Attention Module.

J. Park, S. Woo, J.-Y. Lee, I. S. Kweon, "BAM: Bottleneck Attention Module",
arXiv 1807.06514; authors' code: Jongchan/attention-module.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_choice, check_positive_int, hidden_width
from ._deployed import expand_gate
from ._init import batch_norm, conv
from ._ops import is_deployed

__all__ = ["BAM"]


@register_attention(
    "BAM",
    paper="BAM: Bottleneck Attention Module",
    arxiv="1807.06514",
    year=2018,
    domain="mixed",
    computed_by="avg pool + FC, times dilated conv",
    applied_by="scale",
)
class BAM(GateLayer):
    r"""A channel branch and a dilated spatial branch, joined into one gate of every element.

    .. math::
        M(x) = \sigma(M_c(x) \cdot M_s(x)), \qquad y = (1 + M(x))\, x

    (arXiv 1807.06514, equations 1 to 4.) The paper *adds* the two branches in
    equation 2; the authors' code *multiplies* them, and so does this layer
    unless ``combine='add'``. Their code also averages over an H x H window,
    which is the whole map only where H = W; here the average is global.

    Args:
        channels (int): channels of the input (``gate_channel`` of the authors' code).
        reduction (int): both branches are ``channels // reduction`` wide
            (``reduction_ratio``).
        min_hidden (int, optional): that width at least, for layers of few channels.
        num_layers (int): hidden layers of the channel branch.
        dilation_conv_num (int): dilated 3x3 convolutions of the spatial branch.
        dilation_val (int): their dilation.
        combine (str): ``'mul'`` (authors' code) or ``'add'`` (paper).

    The gate lies in (1, 2): about 1.5 x at the start, never less than x.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, a ``reduction`` that leaves no
            hidden channel, or an input that is not ``[N, channels, H, W]``.
    """

    _CHANNEL = {
        f"channel_att.{own}{i}": f"channel_att.gate_c.{theirs}{i - shift}"
        for i in range(1, 10)
        for own, theirs, shift in (("fc", "gate_c_fc_", 1), ("bn", "gate_c_bn_", 0))
    }
    _SPATIAL = {
        f"spatial_att.{own}{i}": f"spatial_att.gate_s.gate_s_{own}_di_{i - 1}"
        for i in range(1, 10)
        for own in ("conv", "bn")
    }
    TORCH_KEYS = {
        "authors": {
            **_CHANNEL,
            **_SPATIAL,
            "channel_att.fc_final": "channel_att.gate_c.gate_c_fc_final",
            "spatial_att.conv_reduce": "spatial_att.gate_s.gate_s_conv_reduce0",
            "spatial_att.bn_reduce": "spatial_att.gate_s.gate_s_bn_reduce0",
            "spatial_att.conv_final": "spatial_att.gate_s.gate_s_conv_final",
        }
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        num_layers: int = 1,
        dilation_conv_num: int = 2,
        dilation_val: int = 4,
        combine: str = "mul",
        min_hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction, min_hidden=min_hidden)
        check_positive_int(num_layers=num_layers, dilation_conv_num=dilation_conv_num)
        check_positive_int(dilation_val=dilation_val)
        check_choice("combine", combine, ("mul", "add"))
        self.channels = channels
        self.combine = combine
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.channel_att = nn.Sequential()
        for i in range(num_layers):
            self.channel_att.add_sublayer(f"fc{i + 1}", conv(hidden if i else channels, hidden))
            self.channel_att.add_sublayer(f"bn{i + 1}", batch_norm(hidden))
            self.channel_att.add_sublayer(f"relu{i + 1}", nn.ReLU())
        self.channel_att.add_sublayer("fc_final", conv(hidden, channels))
        self.spatial_att = nn.Sequential()
        self.spatial_att.add_sublayer("conv_reduce", conv(channels, hidden))
        self.spatial_att.add_sublayer("bn_reduce", batch_norm(hidden))
        self.spatial_att.add_sublayer("relu_reduce", nn.ReLU())
        for i in range(dilation_conv_num):
            dilated = conv(hidden, hidden, 3, padding=dilation_val, dilation=dilation_val)
            self.spatial_att.add_sublayer(f"conv{i + 1}", dilated)
            self.spatial_att.add_sublayer(f"bn{i + 1}", batch_norm(hidden))
            self.spatial_att.add_sublayer(f"relu{i + 1}", nn.ReLU())
        self.spatial_att.add_sublayer("conv_final", conv(hidden, 1))

    def gate(self, x: Tensor) -> Tensor:
        """The weights ``1 + M(x)``, ``[N, channels, H, W]``, each in [1, 2]."""
        channel, spatial = self.channel_att(self.avg_pool(x)), self.spatial_att(x)
        if is_deployed(self):
            channel = expand_gate(channel, x)
        return 1.0 + F.sigmoid(channel * spatial if self.combine == "mul" else channel + spatial)
