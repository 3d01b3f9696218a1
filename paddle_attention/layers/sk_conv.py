"""Selective Kernel convolution.

X. Li, W. Wang, X. Hu, J. Yang, "Selective Kernel Networks", arXiv 1903.06586;
authors' code: implus/PytorchInsight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._init import batch_norm, conv
from ._ops import split_channels, weighted_sum

__all__ = ["SKBottleneck", "SKConv"]


def _branch_keys() -> dict[str, str]:
    """The authors call the branches conv2 and conv2g; they have no more, further ones are conv2g2..."""
    names = ["2", "2g", *(f"2g{i}" for i in range(2, 10))]
    return {
        f"branches.{i}.{part}": f"{part}{name}" for i, name in enumerate(names) for part in ("conv", "bn")
    }


class _Branch(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, groups: int) -> None:
        super().__init__()
        spatial: dict[str, Any] = {
            "stride": stride,
            "padding": dilation,
            "dilation": dilation,
            "groups": groups,
        }
        self.add_sublayer("conv", conv(in_channels, out_channels, 3, bias=False, **spatial))
        self.add_sublayer("bn", batch_norm(out_channels))
        self.add_sublayer("relu", nn.ReLU())


@register_attention(
    "SKConv",
    paper="Selective Kernel Networks",
    arxiv="1903.06586",
    year=2019,
    domain="branch",
    computed_by="avg pool + FC",
    applied_by="weighted sum",
    replaces_conv=True,
)
class SKConv(AttentionLayer):
    r"""Convolve with several kernels and let each channel choose among the results.

    .. math::
        U_m = \mathrm{ReLU}(\mathrm{BN}(\mathrm{conv}_m(x))), \quad
        z = \mathrm{ReLU}(\mathrm{BN}(W_1 \textstyle\sum_m \mathrm{GAP}(U_m))), \quad
        a_{m,c} = \mathrm{softmax}_m (W_{2,m} z)_c, \quad
        y = \textstyle\sum_m a_m U_m

    (arXiv 1903.06586, equations 1 to 6.) The softmax runs over the **branches**, for
    each channel. It replaces a 3x3 convolution with its normalisation and activation.

    Args:
        channels (int): channels of the input.
        out_channels (int, optional): channels of the output. Default: ``channels``.
        stride (int): stride of the convolutions.
        M (int): number of branches, at least 2.
        dilations (sequence of int, optional): dilation of each branch's 3x3
            kernel. The paper's 3x3 and 5x5 kernels (the latter a dilated 3x3)
            are ``(1, 2)``. Default: 1 for every branch, as in the authors' code.
        groups (sequence of int or int, optional): groups of each branch.
            Default: 1 for the first branch and 32 for the others, as in the authors' code.
        reduction (int): the hidden width is ``out_channels // reduction``...
        min_hidden (int): ...but at least this (``L`` of the paper, 32 there; the
            authors' code has no minimum).
        split_input (bool): give every branch its own ``channels // M`` channels of
            the input, as timm's networks do.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, ceil(H/stride), ceil(W/stride)]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "branches"}

    TORCH_KEYS = {
        "authors": {
            **_branch_keys(),
            "fc1.conv": "conv_fc1",
            "fc1.bn": "bn_fc1",
            "fc2": "conv_fc2",
        },
        "timm": {
            **{f"branches.{i}": f"paths.{i}" for i in range(10)},
            "fc1.conv": "attn.fc_reduce",
            "fc1.bn": "attn.bn",
            "fc2": "attn.fc_select",
        },
    }

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        M: int = 2,
        dilations: int | Sequence[int] | None = None,
        groups: int | Sequence[int] | None = None,
        reduction: int = 16,
        min_hidden: int = 1,
        split_input: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(
            out_channels=out_channels,
            stride=stride,
            M=M,
            reduction=reduction,
            min_hidden=min_hidden,
        )
        if M < 2:
            raise ValueError(f"M must be at least 2 branches to select among, but got {M}")
        dilations = self._each("dilations", dilations, [1] * M)
        groups = self._each("groups", groups, [1] + [32] * (M - 1))
        if split_input and channels % M:
            raise ValueError(f"split_input divides channels={channels} among M={M}, which does not divide it")
        width = channels // M if split_input else channels
        for g in groups:
            if width % g or out_channels % g:
                raise ValueError(
                    f"groups={groups} must divide channels={width} and "
                    f"out_channels={out_channels}, but {g} does not; give groups, such as {[1] * M}"
                )
        hidden = max(out_channels // reduction, min_hidden)
        self.channels, self.out_channels, self.M = channels, out_channels, M
        self.split_input = split_input
        self.branches = nn.LayerList(
            [_Branch(width, out_channels, stride, d, g) for d, g in zip(dilations, groups)]
        )
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = nn.Sequential(
            ("conv", conv(out_channels, hidden, bias=False)), ("bn", batch_norm(hidden)), ("relu", nn.ReLU())
        )
        self.fc2 = conv(hidden, M * out_channels, bias=False)

    @staticmethod
    def _each(name: str, values: int | Sequence[int] | None, default: list[int]) -> list[int]:
        if values is None:
            return default
        values = [values] * len(default) if isinstance(values, int) else list(values)
        if len(values) != len(default):
            raise ValueError(f"{name}={values} must have one value for each of M={len(default)}")
        for value in values:
            check_positive_int(**{name: value})
        return values

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Each branch's result."""
        inputs = split_channels(x, self.M) if self.split_input else [x] * self.M
        return [branch(part) for branch, part in zip(self.branches, inputs)]

    def _select(self, maps: list[Tensor]) -> Tensor:
        pooled = self.avg_pool(maps[0])
        for other in maps[1:]:
            pooled = pooled + self.avg_pool(other)
        logits = self.fc2(self.fc1(pooled)).reshape([0, self.M, self.out_channels, 1, 1])
        return F.softmax(logits, axis=1)

    def attention_maps(self, x: Tensor) -> Tensor:
        """Each branch's weight of each channel, ``[N, M, out_channels, 1, 1]``; they sum to 1 over M."""
        return self._select(self._maps(x))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        maps = self._maps(x)
        return weighted_sum(maps, self._select(maps))


class SKBottleneck(AttentionLayer):
    """A ResNet bottleneck whose 3x3 convolution is an :class:`SKConv`.

    1x1 convolution to ``planes``, SKConv (with the stride), 1x1 convolution to
    ``4 * planes``, addition of the shortcut, ReLU (arXiv 1903.06586, Table 1).

    Args:
        channels (int): channels of the input (``inplanes`` of the authors' code).
        planes (int): width of the SKConv; the output has 4 times as many channels.
        stride (int): stride of the SKConv and of the shortcut's convolution.
        downsample (paddle.nn.Layer, optional): the shortcut. Default: the
            identity, or a 1x1 convolution with normalisation where the shape changes.
        **sk: further arguments of :class:`SKConv`.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, 4 * planes, ceil(H/stride), ceil(W/stride)]`` out.
    """

    MAPS = {"": "branches"}

    expansion = 4
    TORCH_KEYS = {
        "authors": {f"sk.{own}": theirs for own, theirs in SKConv.TORCH_KEYS["authors"].items()},
    }

    def __init__(
        self, channels: int, planes: int, stride: int = 1, downsample: nn.Layer | None = None, **sk: Any
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels, planes=planes, stride=stride)
        out_channels = planes * self.expansion
        self.channels = channels
        self.conv1 = conv(channels, planes, bias=False)
        self.bn1 = batch_norm(planes)
        self.sk = SKConv(planes, stride=stride, **sk)
        self.conv3 = conv(planes, out_channels, bias=False)
        self.bn3 = batch_norm(out_channels)
        self.relu = nn.ReLU()
        if downsample is None and (stride != 1 or channels != out_channels):
            downsample = nn.Sequential(
                conv(channels, out_channels, bias=False, stride=stride), batch_norm(out_channels)
            )
        self.downsample = downsample

    def attention_maps(self, x: Tensor) -> Tensor:
        """Each branch's weight of each channel, ``[N, M, planes, 1, 1]``; they sum to 1 over M."""
        return self.sk.attention_maps(self.relu(self.bn1(self.conv1(x))))

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        y = self.sk(self.relu(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))
