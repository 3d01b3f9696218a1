"""External attention.

M.-H. Guo, Z.-N. Liu, T.-J. Mu, S.-M. Hu, "Beyond Self-attention: External
Attention using Two Linear Layers for Visual Tasks", arXiv 2105.02358; authors'
code: MenghaoGuo/EANet.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_fraction, check_positive_int
from ._init import batch_norm, fan_in_uniform
from ._ops import full_precision, unflatten_like, widen

__all__ = ["ExternalAttention"]


@register_attention(
    "ExternalAttention",
    paper="Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    arxiv="2105.02358",
    year=2021,
    domain="spatial",
    computed_by="matmul with a memory",
    applied_by="matmul, add",
    takes_tokens=True,
)
class ExternalAttention(AttentionLayer):
    r"""Attend to ``k`` learned memory units, the same for all images.

    .. math::
        A = \mathrm{Norm}(M_k F), \qquad y = \mathrm{ReLU}(x + \mathrm{BN}(W M_v A))

    (arXiv 2105.02358, equations 7 to 11; ``External_attention``), where F is a 1x1 convolution
    of x and Norm a softmax over positions, then a division by the sum over the memory
    units plus 1e-9. In the authors' code both memories start from the same values and share their storage;
    here they start from the same values and are two parameters.

    Args:
        channels (int): channels of the input (``c``).
        k (int): number of memory units.
        bn_momentum (float): weight of the new value in the running statistics.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "units"}

    TORCH_KEYS = {
        "authors": {
            "linear_0": ("linear_0.weight", lambda w: w[..., 0]),
            "linear_1": ("linear_1.weight", lambda w: w[..., 0]),
        }
    }

    def __init__(self, channels: int, k: int = 64, bn_momentum: float = 3e-4) -> None:
        super().__init__()
        check_positive_int(channels=channels, k=k)
        check_fraction(bn_momentum=bn_momentum)
        self.channels, self.k = channels, k

        def start(fan_out: int) -> paddle.ParamAttr:
            return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, math.sqrt(2.0 / fan_out)))

        bias = paddle.ParamAttr(initializer=fan_in_uniform(channels))
        self.conv1 = nn.Conv2D(channels, channels, 1, weight_attr=start(channels), bias_attr=bias)
        self.linear_0 = self.create_parameter([k, channels], attr=start(k))
        assign = nn.initializer.Assign(self.linear_0.numpy().T)
        self.linear_1 = self.create_parameter([channels, k], attr=paddle.ParamAttr(initializer=assign))
        again = nn.Conv2D(channels, channels, 1, weight_attr=start(channels), bias_attr=False)
        self.conv2 = nn.Sequential(again, batch_norm(channels, bn_momentum))

    def _weights(self, x: Tensor) -> Tensor:
        """Weights of the memory units, ``[N, k, positions]``."""
        features = self.conv1(x)
        with full_precision():
            scores = paddle.matmul(widen(self.linear_0), widen(features).flatten(2))
            weights = F.softmax(scores, axis=2)
            return weights / (1e-9 + weights.sum(axis=1, keepdim=True))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of the memory units at the positions, ``[N, k, H, W]``; they sum to 1 over k."""
        return unflatten_like(self._weights(x), x)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        weights = self._weights(x)
        with full_precision():
            y = paddle.matmul(widen(self.linear_1), weights).astype(x.dtype)
        return F.relu(self.conv2(unflatten_like(y, x)) + x)
