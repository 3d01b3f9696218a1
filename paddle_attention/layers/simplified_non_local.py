"""The simplified non-local block of GCNet.

Y. Cao, J. Xu, S. Lin, F. Wei, H. Hu, "GCNet: Non-local Networks Meet
Squeeze-Excitation Networks and Beyond", arXiv 1904.11492; authors' code:
xvjiarui/GCNet.
"""

from __future__ import annotations

from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._init import conv
from .gc_block import attention_pool, position_weights

__all__ = ["SimplifiedNonLocal"]


@register_attention(
    "SimplifiedNonLocal",
    paper="GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
    arxiv="1904.11492",
    year=2019,
    domain="spatial",
    computed_by="conv + softmax",
    applied_by="matmul, add",
    takes_tokens=True,
)
class SimplifiedNonLocal(AttentionLayer):
    r"""The non-local block with one attention map for all queries.

    .. math::
        y_i = x_i + W_v \sum_j \mathrm{softmax}_j(W_k x_j)\, x_j

    (arXiv 1904.11492, equation 3, with W_v outside the sum as in equation 4.)
    It starts as the identity: ``W_v`` is zero.

    Args:
        channels (int): channels of the input.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        self.channels = channels
        self.conv_mask = conv(channels, 1)
        self.conv_value = conv(channels, channels, bias=False, zero=True)

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of the positions in the context, ``[N, 1, H, W]``; they sum to 1."""
        return position_weights(self.conv_mask(x))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return x + self.conv_value(attention_pool(x, self.conv_mask(x)))
