"""Shuffle attention.

Q.-L. Zhang, Y.-B. Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural
Networks", arXiv 2102.00240; authors' code: wofmanaf/SA-Net.

Not to be confused with squeeze-and-attention, which is abbreviated SA as well
(:class:`SqueezeAttention`).
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_divides
from ._init import constant
from ._ops import is_deployed, size_of

__all__ = ["ShuffleAttention"]


@register_attention(
    "ShuffleAttention",
    paper="SA-Net: Shuffle Attention for Deep Convolutional Neural Networks",
    arxiv="2102.00240",
    year=2021,
    domain="mixed",
    computed_by="avg pool, and group norm",
    applied_by="scale",
    takes_tokens=True,
)
class ShuffleAttention(AttentionLayer):
    r"""In every group, a channel gate on one half and a spatial gate on the other; then shuffle.

    .. math::
        x'_1 = \sigma(W_1\, \mathrm{GAP}(x_1) + b_1)\, x_1, \qquad
        x'_2 = \sigma(W_2\, \mathrm{GN}(x_2) + b_2)\, x_2

    (arXiv 2102.00240, equations 1 to 3.) The few parameters are shared by all groups; the
    normalisation is of each channel by itself. The channels of the result are
    shuffled as two groups.

    Args:
        channels (int): channels of the input (``channel``).
        groups (int): number of groups; ``2 * groups`` must divide ``channels``.
        identity_init (bool): start as the shuffle alone: the gates are doubled and
            their biases start from 0 instead of 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: if ``2 * groups`` does not divide ``channels``, or for an
            input that is not ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int, groups: int = 64, identity_init: bool = False) -> None:
        super().__init__()
        check_divides(channels, groups=groups)
        if channels % (2 * groups):
            raise ValueError(
                f"each of groups={groups} groups of channels={channels} is split in two, "
                f"but it has {channels // groups} channels; choose groups that divide {channels} / 2"
            )
        self.channels, self.groups = channels, groups
        self.identity_init = identity_init
        half = channels // (2 * groups)
        shape = [1, half, 1, 1]
        bias = 0.0 if identity_init else 1.0
        self.cweight = self.create_parameter(shape, attr=constant(0.0))
        self.cbias = self.create_parameter(shape, attr=constant(bias))
        self.sweight = self.create_parameter(shape, attr=constant(0.0))
        self.sbias = self.create_parameter(shape, attr=constant(bias))
        self.gn = nn.GroupNorm(half, half, epsilon=1e-5)

    def _normalised(self, x: Tensor) -> Tensor:
        """Each map with mean 0 and variance 1, then the affine transformation of ``gn``."""
        if not is_deployed(self):
            return self.gn(x)
        # paddle2onnx gives wrong numbers for this normalisation of maps of a free size.
        centred = x - F.adaptive_avg_pool2d(x, 1)
        variance = F.adaptive_avg_pool2d(centred * centred, 1)
        weight, bias = (p.reshape([1, -1, 1, 1]) for p in (self.gn.weight, self.gn.bias))
        return centred * (weight * paddle.rsqrt(variance + self.gn._epsilon)) + bias

    def _gates(self, x: Tensor) -> tuple[Tensor, ...]:
        """The groups' halves and their gates, with groups in the batch."""
        height, width = size_of(x, (2, 3))
        half = self.channels // (2 * self.groups)
        x = x.reshape([-1, 2 * half, height, width])
        first, second = x[:, :half], x[:, half:]
        channel = F.sigmoid(self.cweight * F.adaptive_avg_pool2d(first, 1) + self.cbias)
        spatial = F.sigmoid(self.sweight * self._normalised(second) + self.sbias)
        return (first, channel), (second, spatial)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'channel': [N, channels // 2, 1, 1], 'spatial': [N, channels // 2, H, W]}``, group by group."""
        (_, channel), (_, spatial) = self._gates(x)
        scale = 2.0 if self.identity_init else 1.0
        height, width = size_of(x, (2, 3))
        return {
            "channel": scale * channel.reshape([-1, self.channels // 2, 1, 1]),
            "spatial": scale * spatial.reshape([-1, self.channels // 2, height, width]),
        }

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        height, width = size_of(x, (2, 3))
        y = paddle.concat([part * gate for part, gate in self._gates(x)], axis=1)
        if self.identity_init:
            y = 2.0 * y
        # In one step with the next line, Paddle Inference would take the groups for the batch of a channel shuffle.
        y = y.reshape([-1, self.channels, height, width])
        y = y.reshape([-1, 2, self.channels // 2, height, width]).transpose([0, 2, 1, 3, 4])
        return y.reshape([-1, self.channels, height, width])
