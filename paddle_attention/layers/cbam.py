"""Convolutional Block Attention Module.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon, "CBAM: Convolutional Block Attention
Module", arXiv 1807.06521; authors' code: Jongchan/attention-module.

The maxima are written twice. In training (and in dygraph in general) their
backward matters: on CPU that of ``paddle.max`` costs O(numel x reduced length),
about 100 times a whole training step, while gathering at the argmax and max
pooling have cheap ones. (``F.maxout`` is as cheap, but ``paddle.jit.to_static``
cannot trace it where it takes C for an unknown.) In the exported network only the forward matters, and there a plain
``max`` is the faster kernel. Both give the same numbers.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ._common import (
    AttentionLayer,
    check_feature_map,
    check_odd,
    check_positive_int,
    hidden_width,
    is_deployed,
    max_over,
    pointwise,
    reduce_deployed,
    start_from_zero,
)

POOL_TYPES = ("avg", "max")


def max_over_channels(x):
    """``[N, C, H, W] -> [N, 1, H, W]`` maximum, with a backward of O(numel)."""
    return max_over(x, 1)


def max_over_channels_deployed(x):
    """The same forward as :func:`max_over_channels`, for graphs without a backward."""
    return reduce_deployed(paddle.max, x, 1)


def max_over_pixels(x):
    """``[N, C, H, W] -> [N, C, 1, 1]`` maximum, with a backward of O(numel)."""
    return F.adaptive_max_pool2d(x, 1)


def max_over_pixels_deployed(x):
    """The same forward as :func:`max_over_pixels`, for graphs without a backward."""
    return paddle.max(x.flatten(2), axis=-1, keepdim=True).unsqueeze(-1)


class ChannelAttention(AttentionLayer):
    r"""CBAM's channel gate: one shared MLP on the average- and the max-pooled map.

    .. math::
        M_c(x) = \sigma(\mathrm{MLP}(\mathrm{AvgPool}(x)) + \mathrm{MLP}(\mathrm{MaxPool}(x))),
        \qquad y = M_c(x)\, x

    (arXiv 1807.06521, equation 2; ``ChannelGate`` of the authors' code).

    Args:
        channels (int): channels of the input.
        reduction (int): the MLP's hidden width is ``channels // reduction``.
        pool_types (sequence of str): ``('avg', 'max')`` or one of the two.
        bias (bool): biases in both layers of the MLP, as in the authors' code.
        hidden_channels (int, optional): the hidden width itself.
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
        channels,
        reduction=16,
        pool_types=POOL_TYPES,
        bias=True,
        hidden_channels=None,
        identity_init=False,
    ):
        super().__init__()
        hidden = hidden_width("ChannelAttention", channels, reduction, hidden_channels)
        pool_types = (pool_types,) if isinstance(pool_types, str) else tuple(pool_types)
        if not pool_types or set(pool_types) - set(POOL_TYPES) or len(set(pool_types)) != len(pool_types):
            raise ValueError(
                f"ChannelAttention: pool_types takes 'avg', 'max' or both, but got {list(pool_types)}"
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

    def _pool(self, x, pool_type):
        if pool_type == "avg":
            return self.avg_pool(x)
        return max_over_pixels_deployed(x) if is_deployed(self) else max_over_pixels(x)

    def gate(self, x):
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 1], or [0, 2] with ``identity_init``."""
        logits = None
        for pool_type in self.pool_types:
            branch = self.fc2(self.relu(self.fc1(self._pool(x, pool_type))))
            logits = branch if logits is None else logits + branch
        return 2.0 * F.sigmoid(logits) if self.identity_init else F.sigmoid(logits)

    def attention_maps(self, x):
        """The channel weights, ``[N, channels, 1, 1]``."""
        return self.gate(x)

    def forward(self, x):
        check_feature_map("ChannelAttention", x, self.channels)
        return x * self.gate(x)

    def extra_repr(self):
        return f"channels={self.channels}, pool_types={self.pool_types}"


class SpatialAttention(AttentionLayer):
    r"""CBAM's spatial gate: a convolution on the per-pixel max and mean over channels.

    .. math::
        M_s(x) = \sigma(f^{7\times 7}([\mathrm{max}_c(x);\ \mathrm{mean}_c(x)])),
        \qquad y = M_s(x)\, x

    (arXiv 1807.06521, equation 3; ``SpatialGate`` of the authors' code). The
    two maps are in the order [max, mean] of the authors' code; the paper's
    equation prints them the other way round.

    Args:
        channels (int): channels of the input.
        kernel_size (int): odd size of the convolution.
        bn (bool): batch normalisation after the convolution, as in the authors'
            code (eps 1e-5, running statistics updated by 0.01 a step).
        identity_init (bool): start as the identity: every gate is doubled and its
            last layer starts from 0, so all weights start at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, or an input that is not
            ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {
        "authors": {"conv": "spatial.conv", "bn": "spatial.bn"},
        # timm's maps are in the order [mean, max]
        "timm": {"conv": ("conv.conv", lambda w: w[:, ::-1]), "bn": "conv.bn"},
    }

    def __init__(self, channels, kernel_size=7, bn=True, identity_init=False):
        super().__init__()
        check_positive_int("SpatialAttention", channels=channels)
        check_odd("SpatialAttention", "kernel_size", kernel_size)
        self.channels = channels
        self.conv = nn.Conv2D(2, 1, kernel_size, padding=kernel_size // 2, bias_attr=False)
        # Paddle's momentum is the weight of the old value: 1 - PyTorch's 0.01.
        self.bn = nn.BatchNorm2D(1, momentum=0.99, epsilon=1e-5) if bn else None
        self.identity_init = identity_init
        if identity_init:
            start_from_zero(self.bn.weight if bn else self.conv.weight)

    def pool(self, x):
        """Per-pixel [max, mean] over channels, ``[N, 2, H, W]``."""
        if is_deployed(self):
            # A 1x1 convolution stays in the accelerated layout; mean(axis=1) does not.
            weight = paddle.full([1, self.channels, 1, 1], 1.0 / self.channels, dtype=x.dtype)
            maps = [max_over_channels_deployed(x), F.conv2d(x, weight)]
        else:
            maps = [max_over_channels(x), paddle.mean(x, axis=1, keepdim=True)]
        return paddle.concat(maps, axis=1)

    def gate(self, x):
        """The pixel weights, ``[N, 1, H, W]``, each in [0, 1], or [0, 2] with ``identity_init``."""
        logits = self.conv(self.pool(x))
        if self.bn is not None:
            logits = self.bn(logits)
        return 2.0 * F.sigmoid(logits) if self.identity_init else F.sigmoid(logits)

    def attention_maps(self, x):
        """The pixel weights, ``[N, 1, H, W]``."""
        return self.gate(x)

    def forward(self, x):
        check_feature_map("SpatialAttention", x, self.channels)
        return x * self.gate(x)

    def extra_repr(self):
        return f"channels={self.channels}"


class CBAM(AttentionLayer):
    r"""Channel attention, then spatial attention on its result.

    .. math::
        x' = M_c(x)\, x, \qquad y = M_s(x')\, x'

    (arXiv 1807.06521, equation 1.)

    Args:
        channels (int): channels of the input (``gate_channels`` of the authors' code).
        reduction (int): see :class:`ChannelAttention` (``reduction_ratio``).
        kernel_size (int): see :class:`SpatialAttention`.
        pool_types (sequence of str): see :class:`ChannelAttention`.
        no_spatial (bool): leave the spatial gate out.
        spatial_bn (bool): batch normalisation in the spatial gate, as in the
            authors' code; the paper's equation 3 has none.
        bias (bool): biases in the MLP of the channel gate.
        hidden_channels (int, optional): hidden width of that MLP, instead of
            ``channels // reduction``.
        identity_init (bool): start as the identity: every gate is doubled and its
            last layer starts from 0, so all weights start at 1.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, a ``reduction`` that leaves no
            hidden channel, or an input that is not ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {
        "authors": {"channel_gate": "ChannelGate", "spatial_gate": "SpatialGate"},
        "timm": {"channel_gate": "channel", "spatial_gate": "spatial"},
    }

    def __init__(
        self,
        channels,
        reduction=16,
        kernel_size=7,
        pool_types=POOL_TYPES,
        no_spatial=False,
        spatial_bn=True,
        bias=True,
        hidden_channels=None,
        identity_init=False,
    ):
        super().__init__()
        self.channels = channels
        self.channel_gate = ChannelAttention(
            channels, reduction, pool_types, bias, hidden_channels, identity_init
        )
        self.spatial_gate = (
            None if no_spatial else SpatialAttention(channels, kernel_size, spatial_bn, identity_init)
        )

    def attention_maps(self, x):
        """``{'channel': [N, channels, 1, 1], 'spatial': [N, 1, H, W]}``; no spatial one with ``no_spatial``."""
        maps = {"channel": self.channel_gate.gate(x)}
        if self.spatial_gate is not None:
            maps["spatial"] = self.spatial_gate.gate(x * maps["channel"])
        return maps

    def forward(self, x):
        check_feature_map("CBAM", x, self.channels)
        x = self.channel_gate(x)
        return x if self.spatial_gate is None else self.spatial_gate(x)
