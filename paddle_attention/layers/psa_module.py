"""Point-wise spatial attention.

H. Zhao, Y. Zhang, S. Liu, J. Shi, C. C. Loy, D. Lin, J. Jia, "PSANet:
Point-wise Spatial Attention Network for Scene Parsing", ECCV 2018; authors'
code: hszhao/semseg.

Not to be confused with polarized self-attention, which is abbreviated PSA as well
(:class:`PolarizedSelfAttention`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._chunked_attention import average
from ._init import batch_norm, conv
from ._ops import full_precision, resize, size_of, skew, unflatten_like, widen

__all__ = ["PSA", "PSAModule", "psa_mask"]

TYPES = {"collect": 0, "distribute": 1, "bi-direction": 2}


def psa_mask(mask: Tensor, psa_type: int, mask_h: int, mask_w: int) -> Tensor:
    """Lay every position's ``mask_h x mask_w`` map over the feature map.

    Args:
        mask (Tensor): ``[N, mask_h * mask_w, H, W]``: at each position, weights of
            the positions around it, row by row, itself in the middle.
        psa_type (int): 0, collect: the weights are those of the sources of each
            position. 1, distribute: those of its targets.

    Returns:
        Tensor ``[N, H * W, H * W]`` of weights of source (last axis) for target
        (middle axis). Positions that the map does not reach have weight 0. (The
        authors' operator returns the two axes the other way round.)
    """
    batch, height, width = size_of(mask, (0, 2, 3))
    mask = mask.reshape([batch, mask_h, mask_w, height, width])
    mask = skew(mask.transpose([0, 2, 4, 3, 1]), height)  # mask_w, W, H, other H
    mask = skew(mask.transpose([0, 3, 4, 2, 1]), width)  # H, other H, W, other W
    order = [0, 1, 3, 2, 4] if psa_type == 0 else [0, 2, 4, 1, 3]
    return mask.transpose(order).reshape([batch, height * width, height * width])


class PSA(AttentionLayer):
    r"""Every position collects from, and distributes to, all others with predicted weights.

    .. math::
        z_i = \frac1F \sum_j a_{ij}\, x_j

    (equations 4 to 8 of the paper), with weights predicted at the target (collect),
    at the source (distribute), or both (bi-direction), as maps relative to the position.

    As in the authors' code: where a map smaller than ``2 H - 1`` does not reach, the
    weight is 0 *before* the softmax and takes part in it; the softmax runs over
    sources; features are shrunk and enlarged bilinearly with aligned corners. There
    the size must be 1 more than a multiple of ``shrink_factor``; here any size
    returns to its own.

    Args:
        channels (int): channels of the input (``in_channels``).
        mid_channels (int, optional): width of the branches. Default: a quarter of ``channels``.
        psa_type (int or str): 0 ``'collect'``, 1 ``'distribute'``, 2 ``'bi-direction'``.
        compact (bool): predict one weight for each absolute position: the shrunk
            map must then be exactly ``mask_h x mask_w``.
        shrink_factor (int): the attention works on a map so many times smaller.
        mask_h, mask_w (int): size of the predicted maps; ``2 h - 1`` of the shrunk
            height h reaches everywhere.
        normalization_factor (float or None): F above; None for ``mask_h * mask_w``.
        psa_softmax (bool): softmax of the weights over sources.

    Shape:
        ``[N, channels, H, W]`` in, ``[N, 2 * channels, H, W]`` out: the input, then
        the attended features. :class:`PSAModule` keeps the shape.

    Raises:
        ValueError: for an argument out of range, an input that is not
            ``[N, channels, H, W]``, or with ``compact`` one whose shrunk size is not the mask's.
    """

    MAPS = {"collect": "positions", "distribute": "positions"}

    def __init__(
        self,
        channels: int,
        mid_channels: int | None = None,
        psa_type: int | str = 2,
        compact: bool = False,
        shrink_factor: int = 2,
        mask_h: int = 59,
        mask_w: int = 59,
        normalization_factor: float | None = 1.0,
        psa_softmax: bool = True,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        mid_channels = max(channels // 4, 1) if mid_channels is None else mid_channels
        check_positive_int(
            mid_channels=mid_channels, shrink_factor=shrink_factor, mask_h=mask_h, mask_w=mask_w
        )
        psa_type = TYPES.get(psa_type, psa_type)  # type: ignore[arg-type]
        if isinstance(psa_type, bool) or psa_type not in (0, 1, 2):
            raise ValueError(f"psa_type must be one of {TYPES}, but got {psa_type!r}")
        if normalization_factor is not None and not normalization_factor > 0:
            raise ValueError(
                f"normalization_factor must be positive or None, but got {normalization_factor!r}"
            )
        self.channels, self.psa_type, self.compact = channels, psa_type, compact
        self.shrink_factor, self.mask_h, self.mask_w = shrink_factor, mask_h, mask_w
        self.normalization_factor = mask_h * mask_w if normalization_factor is None else normalization_factor
        self.psa_softmax = psa_softmax
        self.reduce, self.attention = self._branch(channels, mid_channels)
        if psa_type == 2:
            self.reduce_p, self.attention_p = self._branch(channels, mid_channels)
        self.proj = self._unit(mid_channels * (2 if psa_type == 2 else 1), channels)

    @staticmethod
    def _unit(in_channels: int, out_channels: int) -> nn.Layer:
        return nn.Sequential(conv(in_channels, out_channels, bias=False), batch_norm(out_channels), nn.ReLU())

    def _branch(self, channels: int, mid: int) -> tuple[nn.Layer, nn.Layer]:
        predict = conv(mid, self.mask_h * self.mask_w, bias=False)
        return self._unit(channels, mid), nn.Sequential(*self._unit(mid, mid), predict)

    def _attend(self, x: Tensor, reduce: nn.Layer, attention: nn.Layer, psa_type: int) -> tuple[Tensor, ...]:
        """Attended features at the shrunk size, and the weights ``[N, targets, sources]``."""
        x = reduce(x)
        if self.shrink_factor != 1:
            size = [(n - 1) // self.shrink_factor + 1 for n in size_of(x, (2, 3))]
            x = resize(x, size, align_corners=True)
        mask = attention(x)
        height, width = size_of(x, (2, 3))
        with full_precision():
            mask = widen(mask)
            if self.compact:
                known = isinstance(height, int) and isinstance(width, int)
                if known and (height, width) != (self.mask_h, self.mask_w):
                    raise self.error(
                        f"compact weights need a shrunk map of mask_h x mask_w = {self.mask_h} x "
                        f"{self.mask_w}, but it is {height} x {width}; set mask_h={height}, mask_w={width}"
                    )
                weights = mask.flatten(2)
                if psa_type == 0:
                    weights = weights.transpose([0, 2, 1])
            else:
                weights = psa_mask(mask, psa_type, self.mask_h, self.mask_w)
            if self.psa_softmax:
                weights = F.softmax(weights, axis=-1)
            y = average(widen(x).flatten(2), weights)
            y = unflatten_like(y, x) * (1.0 / self.normalization_factor)
        return y.astype(x.dtype), weights

    def _branches(self, x: Tensor) -> Iterator[tuple[Tensor, ...]]:
        name = "distribute" if self.psa_type == 1 else "collect"
        yield name, self._attend(x, self.reduce, self.attention, self.psa_type % 2)
        if self.psa_type == 2:
            yield "distribute", self._attend(x, self.reduce_p, self.attention_p, 1)

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``{'collect': ..., 'distribute': ...}``, those there are, each ``[N, targets, sources]``.

        Targets and sources are positions of the shrunk map, row by row.
        """
        return {name: weights for name, (_, weights) in self._branches(x)}

    def attend(self, x: Tensor) -> Tensor:
        """The attended features alone, ``[N, channels, H, W]``."""
        parts = [y for _, (y, _) in self._branches(x)]
        y = self.proj(parts[0] if len(parts) == 1 else paddle.concat(parts, axis=1))
        if self.shrink_factor != 1:
            y = resize(y, size_of(x, (2, 3)), align_corners=True)
        return y

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return paddle.concat([x, self.attend(x)], axis=1)


@register_attention(
    "PSAModule",
    paper="PSANet: Point-wise Spatial Attention Network for Scene Parsing",
    arxiv=None,
    year=2018,
    domain="spatial",
    computed_by="conv",
    applied_by="matmul, concat",
)
class PSAModule(AttentionLayer):
    """:class:`PSA` and a 1x1 convolution, normalisation and ReLU back to ``channels``.

    The arguments are those of :class:`PSA`.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: as :class:`PSA`.
    """

    MAPS = {"collect": "positions", "distribute": "positions"}

    def __init__(self, channels: int, *args: Any, **options: Any) -> None:
        super().__init__()
        self.channels = channels
        self.psa = PSA(channels, *args, **options)
        self.project = PSA._unit(2 * channels, channels)

    __init__.__signature__ = inspect.signature(PSA.__init__)  # type: ignore[attr-defined]

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Those of :class:`PSA`."""
        return self.psa.attention_maps(x)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.project(self.psa(x))
