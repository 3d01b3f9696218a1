"""The object context itself.

Y. Yuan, L. Huang, J. Guo, C. Zhang, X. Chen, J. Wang, "OCNet: Object Context
Network for Scene Parsing", arXiv 1809.00916; authors' code:
openseg-group/OCNet.pytorch.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ._abn import conv_abn
from ._base import AttentionLayer
from ._checks import check_positive_int
from ._chunked_attention import softmax_attention, softmax_weights
from ._init import conv
from ._ops import full_precision, resize, size_of, unflatten_like, widen

__all__ = ["ObjectContextBlock"]

# The paper of this block and of the modules built of it.
OCNET: dict[str, Any] = {
    "paper": "OCNet: Object Context Network for Scene Parsing",
    "arxiv": "1809.00916",
    "year": 2018,
}

# The authors apply one key transform twice, as key and as query, and so update its
# running statistics twice a step. Applied once, this rate has the same effect.
_TWICE = 1.0 - (1.0 - 0.1) ** 2


def checked_sizes(sizes: Any) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not sizes:
        raise ValueError("sizes is empty; give at least one, such as (1,)")
    for size in sizes:
        check_positive_int(sizes=size)
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

    MAPS = {"": "positions"}

    # The authors' state holds the shared transform under both names.
    TORCH_COPIES = {"f_query": "f_key"}

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        value_channels: int | None = None,
        out_channels: int | None = None,
        scale: int = 1,
        partition: int = 1,
        abs_gamma: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels, scale=scale, partition=partition)
        key_channels = max(channels // 2, 1) if key_channels is None else key_channels
        value_channels = channels if value_channels is None else value_channels
        out_channels = channels if out_channels is None else out_channels
        check_positive_int(
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

    def attention_maps(self, x: Tensor) -> Tensor | list[Tensor]:
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

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """The blocks of ``x``, row by row."""
        if self.partition == 1:
            return [[x]]
        height, width = size_of(x, (2, 3))
        rows = self._bounds(height)
        return [[x[:, :, a:b, c:d] for c, d in self._bounds(width)] for a, b in rows]

    def _bounds(self, length: Any) -> list[Tensor]:
        step = length // self.partition
        return [(i * step, (i + 1) * step) for i in range(self.partition - 1)] + [
            ((self.partition - 1) * step, length)
        ]

    def _attend(self, key: Tensor, value: Tensor) -> Tensor:
        y = softmax_attention(key.flatten(2), key.flatten(2), value.flatten(2), self.key_channels**-0.5)
        return unflatten_like(y, value)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        least = self.scale * self.partition
        if any(0 <= n < least for n in x.shape[2:]):
            raise self.error(
                f"scale={self.scale} and partition={self.partition} need a map of at least "
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
