"""Split attention.

H. Zhang, C. Wu, Z. Zhang, Y. Zhu, H. Lin, Z. Zhang, Y. Sun, T. He, J. Mueller,
R. Manmatha, M. Li, A. Smola, "ResNeSt: Split-Attention Networks", arXiv
2004.08955; authors' code: zhanghang1989/ResNeSt.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_odd, check_positive_int
from ._init import batch_norm, conv
from ._ops import split_channels, weighted_sum

__all__ = ["SplitAttention"]


@register_attention(
    "SplitAttention",
    paper="ResNeSt: Split-Attention Networks",
    arxiv="2004.08955",
    year=2020,
    domain="branch",
    computed_by="avg pool + FC",
    applied_by="weighted sum",
    replaces_conv=True,
)
class SplitAttention(AttentionLayer):
    r"""A convolution into ``radix`` splits, among which every channel chooses.

    .. math::
        y_c = \sum_r \mathrm{softmax}_r(G_r(\mathrm{GAP}(\textstyle\sum_r U_r)))_c\, U_{r,c}

    (arXiv 2004.08955, equations 1 and 2; ``SplAtConv2d``.) With ``radix=1`` the
    softmax is a sigmoid. It replaces a convolution with its normalisation and activation.

    Args:
        channels (int): channels of the input (``in_channels``).
        out_channels (int, optional): channels of the output (``channels``). Default: as the input.
        kernel_size (int): odd size of the convolution.
        stride (int): its stride.
        dilation (int): its dilation.
        groups (int): cardinality; each has ``radix`` splits.
        radix (int): number of splits.
        reduction_factor (int): the hidden width is ``channels * radix // reduction_factor``,
            at least 32.
        bias (bool): a bias in the convolution.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, out_channels, ceil(H/stride), ceil(W/stride)]`` out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "branches"}

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        radix: int = 2,
        reduction_factor: int = 4,
        bias: bool = False,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(
            channels=channels,
            out_channels=out_channels,
            stride=stride,
            dilation=dilation,
            groups=groups,
            radix=radix,
            reduction_factor=reduction_factor,
        )
        check_odd("kernel_size", kernel_size)
        hidden = max(channels * radix // reduction_factor, 32)
        for name, width, parts in (
            ("channels", channels, groups * radix),
            ("out_channels", out_channels, groups),
            ("the hidden width", hidden, groups),
        ):
            if width % parts:
                raise ValueError(
                    f"{name}={width} is not divisible by {parts} "
                    f"(groups={groups}, radix={radix}); change one of them"
                )
        self.channels, self.out_channels, self.groups, self.radix = channels, out_channels, groups, radix
        self.conv = conv(
            channels,
            out_channels * radix,
            kernel_size,
            bias,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups * radix,
        )
        self.bn0 = batch_norm(out_channels * radix)
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = conv(out_channels, hidden, groups=groups)
        self.bn1 = batch_norm(hidden)
        self.fc2 = conv(hidden, out_channels * radix, groups=groups)

    def _splits(self, x: Tensor) -> tuple[Tensor, ...]:
        """The splits, a list of ``[N, out_channels, H, W]``, and their weights, ``[N, radix, out_channels, 1, 1]``."""
        y = F.relu(self.bn0(self.conv(x)))
        splits = split_channels(y, self.radix)
        total = splits[0]
        for split in splits[1:]:
            total = total + split
        logits = self.fc2(F.relu(self.bn1(self.fc1(self.avg_pool(total)))))
        if self.radix == 1:
            return splits, F.sigmoid(logits).reshape([0, 1, self.out_channels, 1, 1])
        if self.groups == 1:
            logits = logits.reshape([0, self.radix, self.out_channels, 1, 1])
        else:
            logits = logits.reshape([0, self.groups, self.radix, self.out_channels // self.groups])
            logits = logits.transpose([0, 2, 1, 3])
        weights = F.softmax(logits, axis=1)
        return splits, weights.reshape([0, self.radix, self.out_channels, 1, 1])

    def attention_maps(self, x: Tensor) -> Tensor:
        """Each split's weight of each channel, ``[N, radix, out_channels, 1, 1]``."""
        return self._splits(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return weighted_sum(*self._splits(x))
