"""Attention to scale.

L.-C. Chen, Y. Yang, J. Wang, W. Xu, A. L. Yuille, "Attention to Scale:
Scale-aware Semantic Image Segmentation", arXiv 1511.03339.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ._base import AttentionLayer
from ._checks import check_choice, check_positive_int
from ._init import conv
from ._ops import full_precision, resize, size_of, widen

__all__ = ["MultiScaleNet", "ScaleAttention"]


def _resize(x: Tensor, size: list[Any]) -> Tensor:
    if all(isinstance(a, int) and a == b for a, b in zip(size, x.shape[2:])):
        return x
    return resize(x, size, align_corners=False)


class ScaleAttention(AttentionLayer):
    r"""Merge maps of one image at several scales, position by position.

    .. math::
        g_i = \sum_s w_{i,s}\, f_{i,s}, \qquad w_{i,s} = \mathrm{softmax}_s(h_{i,s})

    (arXiv 1511.03339, equations 1 and 2.) The scores h come from the features of
    all scales side by side through a 3x3 convolution, ReLU and a 1x1 convolution.

    Args:
        channels (int): channels of the features of each scale.
        num_scales (int): number of scales.
        hidden_channels (int): filters of the 3x3 convolution.

    Shape:
        A list of ``num_scales`` features ``[N, channels, H_s, W_s]`` and, optionally, a list of
        as many maps to merge ``[N, C, ...]`` (the features themselves if not given); out ``[N, C, H, W]``
        of the first feature's size. Others are resized to it bilinearly.

    Raises:
        ValueError: for an argument out of range, a wrong number of maps, or a
            feature that is not ``[N, channels, H, W]``.
    """

    MAPS = {"": "units"}

    def __init__(self, channels: int, num_scales: int = 2, hidden_channels: int = 512) -> None:
        super().__init__()
        check_positive_int(channels=channels, num_scales=num_scales, hidden_channels=hidden_channels)
        self.channels, self.num_scales = channels, num_scales
        self.conv1 = conv(channels * num_scales, hidden_channels, 3, padding=1)
        self.conv2 = conv(hidden_channels, num_scales)

    def attention_maps(self, features: list[Tensor]) -> Tensor:
        """The weights of the scales, ``[N, num_scales, H, W]``; they sum to 1 over the scales."""
        return self._weights(features)

    def _weights(self, features: list[Tensor]) -> Tensor:
        if not isinstance(features, (list, tuple)) or len(features) != self.num_scales:
            got = len(features) if isinstance(features, (list, tuple)) else type(features).__name__
            raise self.error(f"takes a list of num_scales={self.num_scales} maps, but got {got}")
        for feature in features:
            self.check_input(feature)
        size = size_of(features[0], (2, 3))
        logits = self.conv2(F.relu(self.conv1(paddle.concat([_resize(f, size) for f in features], axis=1))))
        with full_precision():
            return F.softmax(widen(logits), axis=1).astype(logits.dtype)

    def forward(self, features: list[Tensor], maps: list[Tensor] | None = None) -> Tensor:
        maps = features if maps is None else maps
        weights = self._weights(features)
        if len(maps) != self.num_scales:
            raise self.error(f"takes num_scales={self.num_scales} maps to merge, but got {len(maps)}")
        size = size_of(features[0], (2, 3))
        merged = None
        for i, scale in enumerate(maps):
            part = weights[:, i : i + 1] * _resize(scale, size)
            merged = part if merged is None else merged + part
        return merged


class MultiScaleNet(AttentionLayer):
    """One backbone on several sizes of an image, merged by :class:`ScaleAttention`.

    The backbone's features of every scale give score maps through one shared 1x1
    convolution; the score maps are merged (arXiv 1511.03339, Figure 2).

    Args:
        backbone (paddle.nn.Layer): images ``[N, 3, H, W]`` to features ``[N, channels, h, w]``.
        channels (int): channels of its features.
        num_classes (int): number of classes.
        scales (sequence of float): factors of the image size; the first gives the
            size of the merged map.
        task (str): ``'classification'`` averages the merged map over positions;
            ``'dense'`` keeps it.
        hidden_channels (int): see :class:`ScaleAttention`.
        extra_supervision (bool): in train mode also return every scale's own
            scores, to be given the same loss (section 3.2 of the paper).

    Shape:
        ``[N, 3, H, W]`` in; ``[N, num_classes]`` or ``[N, num_classes, h, w]`` out, or with
        ``extra_supervision`` in train mode a list of it and each scale's.

    Raises:
        ValueError: for an argument out of range or features of another shape.
    """

    MAPS = {"": "units"}

    def __init__(
        self,
        backbone: nn.Layer,
        channels: int,
        num_classes: int,
        scales: Sequence[float] = (1.0, 0.5),
        task: str = "classification",
        hidden_channels: int = 512,
        extra_supervision: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels, num_classes=num_classes)
        check_choice("task", task, ("classification", "dense"))
        scales = tuple(scales)
        if not scales or any(
            isinstance(s, bool) or not isinstance(s, (int, float)) or s <= 0 for s in scales
        ):
            raise ValueError(f"scales must be positive numbers, but got {scales}")
        self.backbone, self.scales, self.task = backbone, scales, task
        self.extra_supervision = extra_supervision
        self.classifier = conv(channels, num_classes)
        self.attention = ScaleAttention(channels, len(scales), hidden_channels)

    def features(self, x: Tensor) -> list[Tensor]:
        """The backbone's features of every scale, a list."""
        return [self.backbone(x if scale == 1 else self._rescale(x, scale)) for scale in self.scales]

    @staticmethod
    def _rescale(x: Tensor, scale: float) -> Tensor:
        size = []
        for n in size_of(x, (2, 3)):  # a little more: 0.1 * 30 is below 3 in floating point
            if isinstance(n, int):
                size.append(max(int(n * scale + 1e-6), 1))
            else:
                size.append((n.astype("float64") * scale + 1e-6).floor().astype(n.dtype).clip(min=1))
        return resize(x, size, align_corners=False)

    def attention_maps(self, x: Tensor) -> Tensor:
        """The weights of the scales, ``[N, scales, h, w]``; they sum to 1 over the scales."""
        return self.attention.attention_maps(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        scores = [self.classifier(f) for f in features]
        outputs = [self.attention(features, scores)]
        if self.extra_supervision and self.training:
            outputs += scores
        if self.task == "classification":
            outputs = [F.adaptive_avg_pool2d(y, 1).flatten(1) for y in outputs]
        return outputs if len(outputs) > 1 else outputs[0]
