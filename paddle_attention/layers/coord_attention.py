"""Coordinate attention.

Q. Hou, D. Zhou, J. Feng, "Coordinate Attention for Efficient Mobile Network
Design", arXiv 2103.02907; authors' code: houqb/CoordAttention.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._deployed import reduce_deployed
from ._init import batch_norm, conv, start_from_zero
from ._ops import hard_sigmoid, is_deployed, size_of

__all__ = ["CoordAttention"]


@register_attention(
    "CoordAttention",
    paper="Coordinate Attention for Efficient Mobile Network Design",
    arxiv="2103.02907",
    year=2021,
    domain="mixed",
    computed_by="row and column avg pool + conv",
    applied_by="scale",
)
class CoordAttention(AttentionLayer):
    r"""Rescale every element by a gate of its row and a gate of its column.

    .. math::
        f = \delta(F_1([z^h, z^w])), \qquad
        y_c(i, j) = x_c(i, j)\, \sigma(F_h(f^h))_c(i)\, \sigma(F_w(f^w))_c(j)

    (arXiv 2103.02907, equations 4 to 9), with the averages z over rows and over columns.

    Args:
        channels (int): channels of the input (``inp``, and ``oup``, which must equal it).
        reduction (int): the hidden width is ``channels // reduction``, at least 8.
        identity_init (bool): start as the identity: both gates are doubled and
            their last layers start from 0.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels: int, reduction: int = 32, identity_init: bool = False) -> None:
        super().__init__()
        check_positive_int(channels=channels, reduction=reduction)
        hidden = max(8, channels // reduction)
        self.channels = channels
        self.conv1 = conv(channels, hidden)
        self.bn1 = batch_norm(hidden)
        self.conv_h = conv(hidden, channels)
        self.conv_w = conv(hidden, channels)
        self.identity_init = identity_init
        if identity_init:
            for last in (self.conv_h, self.conv_w):
                start_from_zero(last.weight, last.bias)

    def _hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden features of the rows ``[N, hidden, H, 1]`` and of the columns ``[N, hidden, 1, W]``."""
        height = size_of(x, (2,))[0]
        if is_deployed(self):
            rows, columns = (reduce_deployed(paddle.mean, x, axis) for axis in (3, 2))
        else:
            rows, columns = (paddle.mean(x, axis=axis, keepdim=True) for axis in (3, 2))
        y = self.bn1(self.conv1(paddle.concat([rows, columns.transpose([0, 1, 3, 2])], axis=2)))
        y = y * hard_sigmoid(y)
        return y[:, :, :height], y[:, :, height:].transpose([0, 1, 3, 2])

    def _gates(self, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        gates = (F.sigmoid(conv(y)) for conv, y in zip((self.conv_h, self.conv_w), hidden))
        return tuple(2.0 * gate if self.identity_init else gate for gate in gates)

    def gates(self, x: Tensor) -> tuple[Tensor, ...]:
        """Gates of the rows ``[N, channels, H, 1]`` and of the columns ``[N, channels, 1, W]``."""
        return self._gates(self._hidden(x))

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'row': [N, channels, H, 1], 'column': [N, channels, 1, W]}``."""
        return dict(zip(("row", "column"), self.gates(x)))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        hidden = self._hidden(x)
        if is_deployed(self):
            # The few hidden channels are expanded rather than the gates: convolutions then write gates in x's layout.
            size = size_of(x, (2, 3))
            hidden = tuple(y.expand([-1, y.shape[1], *size]) for y in hidden)
        rows, columns = self._gates(hidden)
        return x * columns * rows
