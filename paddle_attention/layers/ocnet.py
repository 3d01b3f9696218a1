"""Object context.

Y. Yuan, L. Huang, J. Guo, C. Zhang, X. Chen, J. Wang, "OCNet: Object Context
Network for Scene Parsing", arXiv 1809.00916; authors' code:
openseg-group/OCNet.pytorch.
"""

import paddle
from paddle import nn

from ._abn import conv_abn
from ._attend import softmax_attention, softmax_weights
from ._common import (
    AttentionLayer,
    check_feature_map,
    check_positive_int,
    conv,
    full_precision,
    resize,
    size_of,
    unflatten_like,
    widen,
)

# The authors apply one key transform twice, as key and as query, and so update its
# running statistics twice a step. Applied once, this rate has the same effect.
_TWICE = 1.0 - (1.0 - 0.1) ** 2


def _sizes(layer_name, sizes):
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not sizes:
        raise ValueError(f"{layer_name}: sizes is empty; give at least one, such as (1,)")
    for size in sizes:
        check_positive_int(layer_name, sizes=size)
    return sizes


class ObjectContextBlock(AttentionLayer):
    r"""The object context of every position: a mean of the positions like it.

    .. math::
        c_i = W \sum_j \mathrm{softmax}_j\Bigl(\frac{k_i \cdot k_j}{\sqrt{d}}\Bigr)\, v_j

    (arXiv 1809.00916, equations 1 and 2; ``SelfAttentionBlock2D`` of the
    authors' code.) The query *is* the key: one convolution, normalisation and
    leaky ReLU. There it is computed twice and its running statistics are
    updated twice a step; here it is computed once and they move as far.
    The context starts from 0: ``W`` is zero.

    Args:
        channels (int): channels of the input (``in_channels``).
        key_channels (int, optional): d above. Default: half of ``channels``.
        value_channels (int, optional): channels of the values. Default: ``channels``.
        out_channels (int, optional): channels of the output. Default: ``channels``.
        scale (int): work on a map reduced so many times by max pooling.
        partition (int): attend within each of ``partition x partition`` blocks of the
            map; the last row and column of blocks take the remainder (pyramid of OCNet).
        abs_gamma (bool): scale by ``|weight| + 1e-5`` in the normalisation, as the
            InPlaceABN kernel does.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out; H and W at
        least ``scale`` and ``partition``.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """

    # The authors' state holds the shared transform under both names.
    TORCH_COPIES = {"f_query": "f_key"}

    def __init__(
        self,
        channels,
        key_channels=None,
        value_channels=None,
        out_channels=None,
        scale=1,
        partition=1,
        abs_gamma=False,
    ):
        super().__init__()
        check_positive_int("ObjectContextBlock", channels=channels, scale=scale, partition=partition)
        key_channels = max(channels // 2, 1) if key_channels is None else key_channels
        value_channels = channels if value_channels is None else value_channels
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(
            "ObjectContextBlock",
            key_channels=key_channels,
            value_channels=value_channels,
            out_channels=out_channels,
        )
        self.channels, self.key_channels = channels, key_channels
        self.scale, self.partition = scale, partition
        self.pool = nn.MaxPool2D(scale) if scale > 1 else None
        self.f_key = conv_abn(channels, key_channels, momentum=_TWICE, abs_gamma=abs_gamma)
        self.f_value = conv(channels, value_channels)
        self.W = conv(value_channels, out_channels, zero=True)

    def attention_maps(self, x):
        """Weights of positions (last axis) for positions (middle), ``[N, positions, positions]``.

        Positions of the reduced map. With ``partition`` a list of these, block by block.
        """
        key = self.f_key(x if self.pool is None else self.pool(x))
        with full_precision():
            maps = [
                softmax_weights(k.flatten(2), k.flatten(2), self.key_channels**-0.5)
                for row in self._blocks(widen(key))
                for k in row
            ]
        return maps[0] if self.partition == 1 else maps

    def _blocks(self, x):
        """The blocks of ``x``, row by row."""
        if self.partition == 1:
            return [[x]]
        height, width = size_of(x, (2, 3))
        rows = self._bounds(height)
        return [[x[:, :, a:b, c:d] for c, d in self._bounds(width)] for a, b in rows]

    def _bounds(self, length):
        step = length // self.partition
        return [(i * step, (i + 1) * step) for i in range(self.partition - 1)] + [
            ((self.partition - 1) * step, length)
        ]

    def _attend(self, key, value):
        y = softmax_attention(key.flatten(2), key.flatten(2), value.flatten(2), self.key_channels**-0.5)
        return unflatten_like(y, value)

    def forward(self, x):
        check_feature_map("ObjectContextBlock", x, self.channels)
        least = self.scale * self.partition
        if any(0 <= n < least for n in x.shape[2:]):
            raise ValueError(
                f"ObjectContextBlock: scale={self.scale} and partition={self.partition} need a map of at least "
                f"{least} x {least}, but got {x.shape[2]} x {x.shape[3]}"
            )
        small = x if self.pool is None else self.pool(x)
        key, value = self.f_key(small), self.f_value(small)
        rows = [
            [self._attend(k, v) for k, v in zip(keys, values)]
            for keys, values in zip(self._blocks(key), self._blocks(value))
        ]
        if self.partition == 1:
            context = rows[0][0]
        else:
            context = paddle.concat([paddle.concat(row, axis=3) for row in rows], axis=2)
        context = self.W(context)
        if self.scale > 1:
            context = resize(context, size_of(x, (2, 3)), align_corners=True)
        return context

    def extra_repr(self):
        return f"channels={self.channels}, scale={self.scale}, partition={self.partition}"


class BaseOC(AttentionLayer):
    """Features beside their object context, fused by a 1x1 convolution (``BaseOC_Module``).

    Convolution, normalisation, leaky ReLU and dropout of ``[context, features]``
    (arXiv 1809.00916, section 3.2). With several ``sizes`` the contexts are summed.

    Args:
        channels (int): channels of the input (``in_channels``).
        out_channels (int, optional): channels of the output. Default: ``channels``;
            the authors' code allows no other, here the context keeps ``channels``.
        key_channels, value_channels (int, optional): see :class:`ObjectContextBlock`.
        dropout (float): probability of dropping a channel of the output.
        sizes (sequence of int): ``scale`` of each context.
        abs_gamma (bool): see :class:`ObjectContextBlock`.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(
        self,
        channels,
        out_channels=None,
        key_channels=None,
        value_channels=None,
        dropout=0.05,
        sizes=(1,),
        abs_gamma=False,
    ):
        super().__init__()
        check_positive_int("BaseOC", channels=channels)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int("BaseOC", out_channels=out_channels)
        self.channels = channels
        self.stages = nn.LayerList(
            [
                ObjectContextBlock(channels, key_channels, value_channels, channels, scale, 1, abs_gamma)
                for scale in _sizes("BaseOC", sizes)
            ]
        )
        fuse = conv_abn(2 * channels, out_channels, abs_gamma=abs_gamma)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2D(dropout))

    def attention_maps(self, x):
        """The maps of every stage, a list of ``[N, positions, positions]``."""
        return [stage.attention_maps(x) for stage in self.stages]

    def forward(self, x):
        check_feature_map("BaseOC", x, self.channels)
        context = self.stages[0](x)
        for stage in self.stages[1:]:
            context = context + stage(x)
        return self.conv_bn_dropout(paddle.concat([context, x], axis=1))


class PyramidOC(AttentionLayer):
    """Features beside their object contexts within pyramids of blocks (``Pyramid_OC_Module``).

    Convolution, normalisation, leaky ReLU and dropout of ``[features, context,
    context...]``, the features first widened to as many channels as all contexts
    (arXiv 1809.00916, section 3.2).

    Args:
        channels (int): channels of the input (``in_channels``).
        out_channels (int, optional): channels of the output. Default: ``channels``;
            the authors' code allows no other, here the contexts keep ``channels``.
        dropout (float): probability of dropping a channel of the output.
        sizes (sequence of int): ``partition`` of each context, see :class:`ObjectContextBlock`.
        abs_gamma (bool): see there.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, H, W]`` out; H and W at least
        the largest of ``sizes``.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """

    def __init__(self, channels, out_channels=None, dropout=0.05, sizes=(1, 2, 3, 6), abs_gamma=False):
        super().__init__()
        check_positive_int("PyramidOC", channels=channels)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int("PyramidOC", out_channels=out_channels)
        sizes = _sizes("PyramidOC", sizes)
        self.channels, self.sizes = channels, sizes
        self.stages = nn.LayerList(
            [ObjectContextBlock(channels, partition=n, abs_gamma=abs_gamma) for n in sizes]
        )
        fuse = conv_abn(2 * channels * len(sizes), out_channels, abs_gamma=abs_gamma)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2D(dropout))
        self.up_dr = conv_abn(channels, channels * len(sizes), abs_gamma=abs_gamma)

    def attention_maps(self, x):
        """The maps of every stage, a list; those of one with blocks are a list, block by block."""
        return [stage.attention_maps(x) for stage in self.stages]

    def forward(self, x):
        check_feature_map("PyramidOC", x, self.channels)
        parts = [self.up_dr(x)] + [stage(x) for stage in self.stages]
        return self.conv_bn_dropout(paddle.concat(parts, axis=1))


class _Context(AttentionLayer):
    """``BaseOC_Context_Module``: the context alone, through a convolution."""

    def __init__(self, channels, key_channels, scale, abs_gamma):
        super().__init__()
        self.stages = nn.LayerList(
            [ObjectContextBlock(channels, key_channels, scale=scale, abs_gamma=abs_gamma)]
        )
        self.conv_bn_dropout = conv_abn(channels, channels, abs_gamma=abs_gamma)

    def forward(self, x):
        return self.conv_bn_dropout(self.stages[0](x))


class ASPOC(AttentionLayer):
    """Object context as one branch of atrous spatial pyramid pooling (``ASP_OC_Module``).

    Five branches of ``out_features`` channels, ``[context, 1x1, three dilated
    3x3]``, fused to ``2 * out_features`` (arXiv 1809.00916, section 3.2).

    Args:
        channels (int): channels of the input (``features``).
        out_features (int, optional): width of the branches; half the channels of the
            output. Default: half of ``channels``, which must then be even.
        dilations (sequence of int): of the three dilated branches.
        dropout (float): probability of dropping a channel of the output.
        abs_gamma (bool): see :class:`ObjectContextBlock`.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, 2 * out_features, H, W]`` out; H and W at least 2.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """

    def __init__(self, channels, out_features=None, dilations=(12, 24, 36), dropout=0.1, abs_gamma=False):
        super().__init__()
        check_positive_int("ASPOC", channels=channels)
        if out_features is None:
            if channels % 2:
                raise ValueError(
                    f"ASPOC: channels={channels} is odd and the output has 2 * out_features channels; "
                    "give out_features"
                )
            out_features = channels // 2
        check_positive_int("ASPOC", out_features=out_features)
        dilations = list(dilations)
        if len(dilations) != 3:
            raise ValueError(f"ASPOC: dilations takes three integers, but got {dilations}")
        for dilation in dilations:
            check_positive_int("ASPOC", dilations=dilation)
        self.channels = channels
        context = _Context(out_features, max(out_features // 2, 1), 2, abs_gamma)
        first = conv_abn(channels, out_features, 3, padding=1, abs_gamma=abs_gamma)
        self.context = nn.Sequential(*first, context)
        self.conv2 = conv_abn(channels, out_features, bias=False, abs_gamma=abs_gamma)
        self.conv3, self.conv4, self.conv5 = (
            conv_abn(channels, out_features, 3, bias=False, padding=d, dilation=d, abs_gamma=abs_gamma)
            for d in dilations
        )
        fuse = conv_abn(5 * out_features, 2 * out_features, bias=False, abs_gamma=abs_gamma)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2D(dropout))

    def attention_maps(self, x):
        """Weights of positions of the halved map, ``[N, positions, positions]``."""
        first = self.context[1](self.context[0](x))
        return self.context[2].stages[0].attention_maps(first)

    def forward(self, x):
        check_feature_map("ASPOC", x, self.channels)
        branches = (self.context, self.conv2, self.conv3, self.conv4, self.conv5)
        return self.conv_bn_dropout(paddle.concat([branch(x) for branch in branches], axis=1))
