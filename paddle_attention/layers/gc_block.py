"""The global context block of GCNet.

Y. Cao, J. Xu, S. Lin, F. Wei, H. Hu, "GCNet: Non-local Networks Meet
Squeeze-Excitation Networks and Beyond", arXiv 1904.11492; authors' code:
xvjiarui/GCNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer, NoMapError
from ._checks import check_choice, check_positive, check_positive_int
from ._init import conv
from ._ops import count_positions, full_precision, unflatten_like, widen

__all__ = ["GCBlock"]

FUSIONS = ("channel_add", "channel_mul")


def position_weights(mask: Tensor) -> Tensor:
    """Softmax of ``mask`` ``[N, 1, H, W]`` over positions."""
    return unflatten_like(F.softmax(mask.flatten(2), axis=-1), mask)


def attention_pool(x: Tensor, mask: Tensor) -> Tensor:
    """``[N, C, 1, 1]`` mean of ``x`` with the softmax of ``mask`` ``[N, 1, H, W]`` over positions."""
    with full_precision():
        # A pooling keeps the deployed network's layout, where a matrix product does not.
        weighted = widen(x) * position_weights(widen(mask))
        return (F.adaptive_avg_pool2d(weighted, 1) * count_positions(weighted)).astype(x.dtype)


class _Transform(AttentionLayer):
    """1x1 convolution, layer normalisation over channels, ReLU, 1x1 convolution that starts from 0."""

    TORCH_KEYS = {
        "authors": {
            "conv1": "0",
            "norm.weight": ("1.weight", lambda w: w.reshape(-1)),
            "norm.bias": ("1.bias", lambda w: w.reshape(-1)),
            "conv2": "3",
        },
        "timm": {"conv1": "fc1", "conv2": "fc2"},
    }

    def __init__(self, channels: int, planes: int, epsilon: float) -> None:
        super().__init__()
        self.planes = planes
        self.conv1 = conv(channels, planes)
        # On the flattened vector: with [planes, 1, 1] the oneDNN predictor fails.
        self.norm = nn.LayerNorm(planes, epsilon=epsilon)
        self.conv2 = conv(planes, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv1(x).flatten(1))
        return self.conv2(F.relu(hidden).reshape([0, self.planes, 1, 1]))


@register_attention(
    "GCBlock",
    paper="GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
    arxiv="1904.11492",
    year=2019,
    domain="mixed",
    computed_by="attention pool + FC",
    applied_by="add or scale",
    takes_tokens=True,
)
class GCBlock(AttentionLayer):
    r"""Pool one context vector by attention over positions and merge it into every position.

    .. math::
        c = \sum_j \mathrm{softmax}_j(W_k x_j)\, x_j, \qquad
        y_i = x_i + W_{v2}\, \mathrm{ReLU}(\mathrm{LN}(W_{v1} c))

    (arXiv 1904.11492, equation 5; ``ContextBlock`` of the authors' code.) With
    ``'channel_mul'`` every position is multiplied by the sigmoid of such a
    transform; with both, first multiplied, then added to, from the same context.

    The last convolutions start from 0. With ``'channel_add'`` alone it is then the
    identity; with ``'channel_mul'`` it starts as **0.5 x** unless ``identity_init``.

    Args:
        channels (int): channels of the input (``inplanes``).
        ratio (float): the hidden width is ``int(channels * ratio)``.
        pooling_type (str): ``'att'``, or ``'avg'`` for the plain mean.
        fusion_types (sequence of str): ``'channel_add'``, ``'channel_mul'`` or both.
        identity_init (bool): double the sigmoid of ``'channel_mul'``, so that it starts at 1.
        epsilon (float): of the layer normalisation; timm has 1e-6.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, a ``ratio`` that leaves no
            hidden channel, or an input that is not ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {
        "authors": {},
        "timm": {"conv_mask": "conv_attn", "channel_add_conv": "mlp_add", "channel_mul_conv": "mlp_scale"},
    }

    def __init__(
        self,
        channels: int,
        ratio: float = 1.0 / 16,
        pooling_type: str = "att",
        fusion_types: Sequence[str] = ("channel_add",),
        identity_init: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_positive(ratio=ratio, epsilon=epsilon)
        planes = int(channels * ratio)
        if planes < 1:
            raise ValueError(
                f"int(channels={channels} * ratio={ratio}) leaves no hidden channel; "
                f"choose ratio >= {1 / channels:.4g}"
            )
        check_choice("pooling_type", pooling_type, ("att", "avg"))
        fusion_types = (fusion_types,) if isinstance(fusion_types, str) else tuple(fusion_types)
        if not fusion_types or set(fusion_types) - set(FUSIONS):
            raise ValueError(f"fusion_types takes {FUSIONS} or one of them, but got {fusion_types}")
        self.channels = channels
        self.conv_mask = conv(channels, 1) if pooling_type == "att" else None
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.channel_add_conv = (
            _Transform(channels, planes, epsilon) if "channel_add" in fusion_types else None
        )
        self.channel_mul_conv = (
            _Transform(channels, planes, epsilon) if "channel_mul" in fusion_types else None
        )
        self.identity_init = identity_init

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of the positions in the context, ``[N, 1, H, W]``; they sum to 1."""
        if self.conv_mask is None:
            raise NoMapError("GCBlock: pooling_type='avg' weighs all positions alike; there is no map")
        return position_weights(self.conv_mask(x))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        context = self.avg_pool(x) if self.conv_mask is None else attention_pool(x, self.conv_mask(x))
        y = x
        if self.channel_mul_conv is not None:
            gate = F.sigmoid(self.channel_mul_conv(context))
            y = y * (2.0 * gate if self.identity_init else gate)
        if self.channel_add_conv is not None:
            y = y + self.channel_add_conv(context)
        return y
