"""Triplet attention.

D. Misra, T. Nalamada, A. U. Arasanipalai, Q. Hou, "Rotate to Attend:
Convolutional Triplet Attention Module", arXiv 2010.03045; authors' code:
LandskapeAI/triplet-attention.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_odd, check_positive_int
from ._deployed import expand_gate, reduce_deployed
from ._init import batch_norm, conv
from ._ops import is_deployed, max_over

__all__ = ["TripletAttention"]


class _Gate(AttentionLayer):
    """``AttentionGate``: a 7x7 convolution of the [max, mean] over one axis."""

    TORCH_KEYS = {"authors": {"conv": "conv.conv", "bn": "conv.bn"}}

    def __init__(self, kernel_size: int, identity_init: bool) -> None:
        super().__init__()
        self.conv = conv(2, 1, kernel_size, bias=False, padding=kernel_size // 2)
        self.bn = batch_norm(1, 0.01, zero=identity_init)
        self.identity_init = identity_init

    def forward(self, x: Tensor, axis: int, order: list[int]) -> Tensor:
        """Gate of ``x`` pooled over ``axis``; ``order`` puts that axis first and then restores it."""
        if is_deployed(self):
            maps = [reduce_deployed(reduce, x, axis) for reduce in (paddle.max, paddle.mean)]
        else:
            maps = [max_over(x, axis), paddle.mean(x, axis=axis, keepdim=True)]
        pooled = paddle.concat(maps, axis=axis)
        if axis == 1:
            gate = F.sigmoid(self.bn(self.conv(pooled)))
        else:
            gate = F.sigmoid(self.bn(self.conv(pooled.transpose(order)))).transpose(order)
        return 2.0 * gate if self.identity_init else gate


@register_attention(
    "TripletAttention",
    paper="Rotate to Attend: Convolutional Triplet Attention Module",
    arxiv="2010.03045",
    year=2020,
    domain="mixed",
    computed_by="max and mean of each axis + conv",
    applied_by="scale",
)
class TripletAttention(AttentionLayer):
    r"""The mean of three rescalings, each by a spatial gate over two of the axes C, H, W.

    .. math::
        y = \frac13 \bigl( x\,\omega_{CW} + x\,\omega_{CH} + x\,\omega_{HW} \bigr), \qquad
        \omega = \sigma(\mathrm{BN}(\mathrm{conv}_{7\times7}([\max, \mathrm{mean}])))

    (arXiv 2010.03045, equations 1 to 3.) The three names are those of the authors' code:
    ``cw`` pools over H, ``hc`` over W, ``hw`` over C.

    Args:
        channels (int): channels of the input.
        no_spatial (bool): leave ``hw`` out; the mean is then of two.
        kernel_size (int): odd size of the convolutions.
        identity_init (bool): start as the identity: the gates are doubled and
            their normalisations start from a scale of 0.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(
        self, channels: int, no_spatial: bool = False, kernel_size: int = 7, identity_init: bool = False
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_odd("kernel_size", kernel_size)
        self.channels = channels
        self.cw = _Gate(kernel_size, identity_init)
        self.hc = _Gate(kernel_size, identity_init)
        self.hw = None if no_spatial else _Gate(kernel_size, identity_init)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'cw': [N, channels, 1, W], 'hc': [N, channels, H, 1], 'hw': [N, 1, H, W]}``."""
        return self._gates(x)

    def _gates(self, x: Tensor) -> dict[str, Tensor]:
        maps = {"cw": self.cw(x, 2, [0, 2, 1, 3]), "hc": self.hc(x, 3, [0, 3, 2, 1])}
        if self.hw is not None:
            maps["hw"] = self.hw(x, 1, [0, 1, 2, 3])
        return maps

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        maps = list(self._gates(x).values())
        if is_deployed(self):
            maps = [expand_gate(gate, x) for gate in maps]
        total = maps[0]
        for gate in maps[1:]:
            total = total + gate
        return x * total * (1.0 / len(maps))
