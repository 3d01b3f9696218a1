"""Double attention.

Y. Chen, Y. Kalantidis, J. Li, S. Yan, J. Feng, "A^2-Nets: Double Attention
Networks", arXiv 1810.11579.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._chunked_attention import matmul_transposed
from ._init import conv
from ._ops import full_precision, unflatten_like, widen

__all__ = ["DoubleAttention"]


@register_attention(
    "DoubleAttention",
    paper="A^2-Nets: Double Attention Networks",
    arxiv="1810.11579",
    year=2018,
    domain="spatial",
    computed_by="conv + softmax, twice",
    applied_by="matmul, add",
    takes_tokens=True,
)
class DoubleAttention(AttentionLayer):
    r"""Gather ``c_n`` descriptors of the whole map and hand each position a mixture of them.

    .. math::
        Z = \bigl[ A\, \mathrm{softmax}_{positions}(B)^T \bigr]\, \mathrm{softmax}_{descriptors}(V),
        \qquad y = x + W_Z Z

    (arXiv 1810.11579, equations 3 to 6 and Figure 1), with 1x1 convolutions A, B, V of x. It
    starts as the identity: the last convolution is zero.

    Args:
        channels (int): channels of the input.
        c_m (int, optional): channels of the descriptors. Default: a quarter of ``channels``.
        c_n (int, optional): number of descriptors. Default: a quarter of ``channels``.
        residual (bool): add x.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"gather": "units", "distribute": "units"}

    def __init__(
        self, channels: int, c_m: int | None = None, c_n: int | None = None, residual: bool = True
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        c_m = max(channels // 4, 1) if c_m is None else c_m
        c_n = max(channels // 4, 1) if c_n is None else c_n
        check_positive_int(c_m=c_m, c_n=c_n)
        self.channels, self.residual = channels, residual
        self.conv_a = conv(channels, c_m)
        self.conv_b = conv(channels, c_n)
        self.conv_v = conv(channels, c_n)
        self.conv_z = conv(c_m, channels, zero=residual)

    def _weights(self, x: Tensor) -> tuple[Tensor, ...]:
        """Weights of the positions and of the descriptors, each ``[N, c_n, positions]``."""
        gather, distribute = self.conv_b(x), self.conv_v(x)
        with full_precision():
            gather = F.softmax(widen(gather).flatten(2), axis=2)
            return gather, F.softmax(widen(distribute).flatten(2), axis=1)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'gather': ..., 'distribute': ...}``, each ``[N, c_n, H, W]``.

        The former sum to 1 over positions, the latter over the ``c_n`` descriptors.
        """
        gather, distribute = self._weights(x)
        return {"gather": unflatten_like(gather, x), "distribute": unflatten_like(distribute, x)}

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        features = self.conv_a(x)
        gather, distribute = self._weights(x)
        with full_precision():
            descriptors = matmul_transposed(widen(features).flatten(2), gather)
            y = paddle.matmul(descriptors, distribute).astype(x.dtype)
        y = self.conv_z(unflatten_like(y, x))
        return x + y if self.residual else y
