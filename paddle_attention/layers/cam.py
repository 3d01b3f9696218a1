"""The channel attention of DANet.

J. Fu, J. Liu, H. Tian, Y. Li, Y. Bao, Z. Fang, H. Lu, "Dual Attention Network
for Scene Segmentation", arXiv 1809.02983; authors' code: junfu1115/DANet.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._chunked_attention import matmul_transposed
from ._init import constant
from ._ops import full_precision, unflatten_like, widen

__all__ = ["CAM"]


@register_attention(
    "CAM",
    paper="Dual Attention Network for Scene Segmentation",
    arxiv="1809.02983",
    year=2018,
    domain="channel",
    computed_by="matmul",
    applied_by="matmul, add",
    takes_tokens=True,
)
class CAM(AttentionLayer):
    r"""Channel attention: add to every channel a weighted mean of all.

    .. math::
        y_j = \beta \sum_i \mathrm{softmax}_i(\max_k e_{jk} - e_{ji})\, x_i + x_j, \qquad e_{ji} = x_j \cdot x_i

    (arXiv 1809.02983, equations 3 and 4.) As in the authors' code, *unlike* channels
    weigh most, and the gradient also flows through the maximum (which cancels in
    the softmax). It starts as the identity: beta (``gamma``) is zero.

    Args:
        channels (int): channels of the input (``in_dim``).

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "channels"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        self.channels = channels
        self.gamma = self.create_parameter([1], attr=constant(0.0))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of channels (last axis) for channels (middle), ``[N, channels, channels]``."""
        return self._weights(x)

    @staticmethod
    def _weights(x: Tensor) -> Tensor:
        with full_precision():
            flat = widen(x).flatten(2)
            # softmax(max - e) is softmax(-e): a constant of the row cancels, in the gradient too.
            return F.softmax(-matmul_transposed(flat, flat), axis=-1)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        weights = self._weights(x)
        with full_precision():
            y = paddle.matmul(weights, widen(x).flatten(2)).astype(x.dtype)
        return self.gamma * unflatten_like(y, x) + x
