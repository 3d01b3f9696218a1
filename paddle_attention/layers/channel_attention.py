"""The channel gate of CBAM.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon, "CBAM: Convolutional Block Attention
Module", arXiv 1807.06521; authors' code: Jongchan/attention-module.

The maxima are written twice. In training (and in dygraph in general) their
backward matters: on CPU that of ``paddle.max`` costs O(numel x reduced length),
about 100 times a whole training step, while gathering at the argmax and max
pooling have cheap ones. (``F.maxout`` is as cheap, but ``paddle.jit.to_static``
cannot trace it where it takes C for an unknown.) In the exported network only the forward matters, and there a plain
``max`` is the faster kernel. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import hidden_width
from ._deployed import max_over_pixels_deployed
from ._init import pointwise, start_from_zero
from ._ops import count_positions, full_precision, is_deployed, widen

__all__ = ["ChannelAttention"]

POOL_TYPES = ("avg", "max", "lp", "lse")


def max_over_pixels(x: Tensor) -> Tensor:
    """``[N, C, H, W] -> [N, C, 1, 1]`` maximum, with a backward of O(numel)."""
    return F.adaptive_max_pool2d(x, 1)


def power_average(x: Tensor) -> Tensor:
    """``[N, C, H, W] -> [N, C, 1, 1]`` root of the sum of squares over the map; no mean."""
    with full_precision():
        wide = widen(x)
        total = F.adaptive_avg_pool2d(wide * wide, 1) * count_positions(wide)
        # The root of an exact 0 has no gradient.
        return paddle.sqrt(total.clip(min=1e-30)).astype(x.dtype)


def log_sum_exp(x: Tensor) -> Tensor:
    """``[N, C, H, W] -> [N, C, 1, 1]`` logarithm of the sum of exponentials over the map; no mean."""
    with full_precision():
        flat = widen(x).flatten(2)
        return paddle.logsumexp(flat, axis=-1, keepdim=True).unsqueeze(-1).astype(x.dtype)


@register_attention(
    "ChannelAttention",
    paper="CBAM: Convolutional Block Attention Module",
    arxiv="1807.06521",
    year=2018,
    domain="channel",
    computed_by="avg and max pool + FC",
    applied_by="scale",
    takes_tokens=True,
)
class ChannelAttention(GateLayer):
    r"""CBAM's channel gate: one shared MLP on the average- and the max-pooled map.

    .. math::
        M_c(x) = \sigma(\mathrm{MLP}(\mathrm{AvgPool}(x)) + \mathrm{MLP}(\mathrm{MaxPool}(x))),
        \qquad y = M_c(x)\, x

    (arXiv 1807.06521, equation 2; ``ChannelGate`` of the authors' code).

    Args:
        channels (int): channels of the input.
        reduction (int): the MLP's hidden width is ``channels // reduction``.
        pool_types (sequence of str): some of ``'avg'``, ``'max'``, ``'lp'`` (root of the sum of squares)
            and ``'lse'`` (log-sum-exp), each of which goes through the MLP. Default: the first two.
        bias (bool): biases in both layers of the MLP, as in the authors' code.
        hidden_channels (int, optional): the hidden width itself.
        min_hidden (int, optional): the hidden width at least, for layers of few channels.
        identity_init (bool): start as the identity: every gate is doubled and its
            last layer starts from 0, so all weights start at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, a ``reduction`` that leaves no
            hidden channel, or an input that is not ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {"authors": {"fc1": "mlp.1", "fc2": "mlp.3"}, "timm": {}}

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pool_types: Sequence[str] = ("avg", "max"),
        bias: bool = True,
        hidden_channels: int | None = None,
        identity_init: bool = False,
        min_hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction, hidden_channels, min_hidden)
        pool_types = (pool_types,) if isinstance(pool_types, str) else tuple(pool_types)
        if not pool_types or set(pool_types) - set(POOL_TYPES) or len(set(pool_types)) != len(pool_types):
            raise ValueError(
                f"pool_types takes some of {', '.join(POOL_TYPES)}, each once, but got {list(pool_types)}"
            )
        self.channels = channels
        self.pool_types = pool_types
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = pointwise(channels, hidden, bias)
        self.relu = nn.ReLU()
        self.fc2 = pointwise(hidden, channels, bias)
        self.identity_init = identity_init
        if identity_init:
            start_from_zero(self.fc2.weight, self.fc2.bias)

    def _pool(self, x: Tensor, pool_type: str) -> Tensor:
        if pool_type == "max" and is_deployed(self):
            return max_over_pixels_deployed(x)
        pools = {"avg": self.avg_pool, "max": max_over_pixels, "lp": power_average, "lse": log_sum_exp}
        return pools[pool_type](x)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 1], or [0, 2] with ``identity_init``."""
        logits = None
        for pool_type in self.pool_types:
            branch = self.fc2(self.relu(self.fc1(self._pool(x, pool_type))))
            logits = branch if logits is None else logits + branch
        return 2.0 * F.sigmoid(logits) if self.identity_init else F.sigmoid(logits)
