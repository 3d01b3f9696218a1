"""Gated channel transformation.

Z. Yang, L. Zhu, Y. Wu, Y. Yang, "Gated Channel Transformation for Visual
Recognition", arXiv 1909.11519; authors' code: z-x-yang/GCT.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_choice, check_positive, check_positive_int
from ._init import constant
from ._ops import affine, count_positions, full_precision, widen

__all__ = ["GCT"]


@register_attention(
    "GCT",
    paper="Gated Channel Transformation for Visual Recognition",
    arxiv="1909.11519",
    year=2019,
    domain="channel",
    computed_by="channel norms",
    applied_by="scale",
    takes_tokens=True,
)
class GCT(GateLayer):
    r"""Rescale channels by a gate of their norm against the other channels' norms.

    .. math::
        s_c = \alpha_c \sqrt{\textstyle\sum x_c^2 + \epsilon}, \qquad
        \hat s_c = \frac{s_c}{\sqrt{\mathrm{mean}_c(s_c^2) + \epsilon}}, \qquad
        y_c = x_c \bigl(1 + \tanh(\gamma_c \hat s_c + \beta_c)\bigr)

    (arXiv 1909.11519, equations 2 to 5.) It starts as the identity: gamma and beta are zero.

    Args:
        channels (int): channels of the input (``num_channels``).
        epsilon (float): added before roots and to denominators.
        mode (str): ``'l2'``, or ``'l1'`` for sums of absolute values.
        after_relu (bool): with ``'l1'``: the input has no negative values, sum it as it is.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(
        self, channels: int, epsilon: float = 1e-5, mode: str = "l2", after_relu: bool = False
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        check_choice("mode", mode, ("l1", "l2"))
        check_positive(epsilon=epsilon)
        self.channels, self.epsilon, self.mode, self.after_relu = channels, epsilon, mode, after_relu
        shape = [1, channels, 1, 1]
        self.alpha = self.create_parameter(shape, attr=constant(1.0))
        self.gamma = self.create_parameter(shape, attr=constant(0.0))
        self.beta = self.create_parameter(shape, attr=constant(0.0))

    @staticmethod
    def _mean(x: Tensor) -> Tensor:
        """Mean over positions by a pooling, which is fast when deployed."""
        return F.adaptive_avg_pool2d(x, 1)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 2]."""
        with full_precision():
            wide = widen(x)
            alpha, gamma, beta = widen(self.alpha), widen(self.gamma), widen(self.beta)
            if self.mode == "l2":
                # The mean over channels of (alpha norm)^2 is a convolution, one operation in a deployed network.
                total = affine(self._mean(wide * wide), count_positions(wide), self.epsilon)
                norm = paddle.sqrt(total)
                weight = alpha * alpha * (1.0 / self.channels)
                scale = paddle.sqrt(F.conv2d(total, weight) + self.epsilon)
            else:
                norm = self._mean(wide if self.after_relu else paddle.abs(wide)) * count_positions(wide)
                scale = F.conv2d(paddle.abs(norm), paddle.abs(alpha) * (1.0 / self.channels)) + self.epsilon
            return (1.0 + paddle.tanh(norm / scale * (alpha * gamma) + beta)).astype(x.dtype)
