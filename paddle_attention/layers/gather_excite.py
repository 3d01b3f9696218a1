"""Gather-excite.

J. Hu, L. Shen, S. Albanie, G. Sun, A. Vedaldi, "Gather-Excite: Exploiting
Feature Context in Convolutional Neural Networks", arXiv 1810.12348; authors'
networks (Caffe): hujie-frank/GENet.
"""

from __future__ import annotations

import math

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer, TorchKeys
from ._checks import check_pair, check_positive_int, hidden_width
from ._init import batch_norm, conv, start_from_zero
from ._ops import resize_nearest, size_of

__all__ = ["GatherExcite"]


@register_attention(
    "GatherExcite",
    paper="Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
    arxiv="1810.12348",
    year=2018,
    domain="mixed",
    computed_by="avg pool or conv",
    applied_by="scale",
)
class GatherExcite(GateLayer):
    r"""Rescale by a gate made of the averages (or convolutions) of each neighbourhood.

    .. math::
        y = x \odot \sigma(\mathrm{interp}(f(\xi_G(x))))

    (arXiv 1810.12348, equation 1.) Without parameters (GE-theta-minus) the gathering
    :math:`\xi_G` is an average over ``2 * extent - 1`` pixels with stride ``extent``;
    with them (GE-theta) a chain of 3x3 depth-wise convolutions of stride 2, normalised. ``use_mlp``
    makes f two 1x1 convolutions (GE-theta-plus); otherwise it is the identity.
    Nearest neighbours bring the gate back to the size of x. A gathering of the whole map has a
    ReLU before the MLP, as in the authors' RN50-GEPP (hujie-frank/GENet), and none without MLP, as in
    their RN50-GEP; the paper says nothing of it.

    Args:
        channels (int): channels of the input.
        extent (int): 0 for the whole map, or a power of 2.
        extra_params (bool): gather by convolutions; with ``extent=0`` by one of ``feat_size``.
        feat_size (tuple of int, optional): ``(H, W)`` of the input, for ``extra_params`` with
            ``extent=0``.
        use_mlp (bool): two 1x1 convolutions, ReLU between.
        reduction (int): their hidden width is ``channels // reduction``.
        identity_init (bool): start as the identity: the gate is doubled and its last
            layer starts from 0; needs ``use_mlp`` or ``extra_params``.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """

    def torch_keys(self) -> TorchKeys:
        """timm's names are ours. Its convolution of the whole map is padded, the authors' is not: other numbers."""
        if self.feat_size is not None:
            raise self.error(
                "weights with extra_params and extent=0 are not converted: timm pads this convolution, which the "
                "authors do not, so the same weights give other numbers"
            )
        return {"timm": {}}

    def __init__(
        self,
        channels: int,
        extent: int = 0,
        extra_params: bool = False,
        feat_size: tuple[int, ...] | None = None,
        use_mlp: bool = True,
        reduction: int = 16,
        identity_init: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        if (
            isinstance(extent, bool)
            or not isinstance(extent, int)
            or extent < 0
            or extent & (extent - 1)
            or extent == 1
        ):
            raise ValueError(f"extent must be 0 or a power of 2 from 2, but got {extent!r}")
        self.channels, self.extent = channels, extent
        self.feat_size = None
        self.gather = None
        if extra_params:
            self.gather = nn.Sequential()
            if extent == 0:
                if feat_size is None:
                    raise ValueError(
                        "extra_params with extent=0 is a convolution of the whole map; give feat_size=(H, W)"
                    )
                self.feat_size = check_pair("feat_size", feat_size)
                whole = conv(channels, channels, self.feat_size, bias=False, groups=channels)
                self.gather.add_sublayer("conv1", whole)
                self.gather.add_sublayer("norm1", batch_norm(channels))
                if use_mlp:
                    self.gather.add_sublayer("act1", nn.ReLU())
            else:
                steps = int(math.log2(extent))
                for i in range(1, steps + 1):
                    step = conv(channels, channels, 3, bias=False, stride=2, padding=1, groups=channels)
                    self.gather.add_sublayer(f"conv{i}", step)
                    self.gather.add_sublayer(f"norm{i}", batch_norm(channels))
                    if i < steps:
                        self.gather.add_sublayer(f"act{i}", nn.ReLU())
        self.mlp = None
        if use_mlp:
            hidden = hidden_width(channels, reduction)
            self.mlp = nn.Sequential(
                ("fc1", conv(channels, hidden)), ("act", nn.ReLU()), ("fc2", conv(hidden, channels))
            )
        self.identity_init = identity_init
        if identity_init:
            if self.mlp is not None:
                start_from_zero(self.mlp.fc2.weight, self.mlp.fc2.bias)
            elif self.gather is not None:
                start_from_zero([layer for layer in self.gather if hasattr(layer, "_mean")][-1].weight)
            else:
                raise ValueError("identity_init needs use_mlp or extra_params; it has no parameter")

    def gate(self, x: Tensor) -> Tensor:
        """The weights, ``[N, channels, H, W]``, or ``[N, channels, 1, 1]`` of the whole map."""
        if self.gather is not None:
            z = self.gather(x)
        elif self.extent == 0:
            z = F.adaptive_avg_pool2d(x, 1)
        else:
            size = 2 * self.extent - 1
            z = F.avg_pool2d(x, size, self.extent, size // 2, exclusive=True)
        if self.mlp is not None:
            z = self.mlp(z)
        if self.extent:
            z = resize_nearest(z, size_of(x, (2, 3)))
        gate = F.sigmoid(z)
        return 2.0 * gate if self.identity_init else gate

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        if self.feat_size is not None and tuple(x.shape[2:]) != self.feat_size and -1 not in x.shape[2:]:
            raise self.error(
                f"built for feat_size={self.feat_size}, but got an input of shape "
                f"{list(x.shape)}; build it for that size or with extent > 0"
            )
        return x * self.gate(x)
