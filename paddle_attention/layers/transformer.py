"""The layers of a transformer, over Paddle's own, with the masks of :mod:`.multi_head_attention`.

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
I. Polosukhin, "Attention Is All You Need", arXiv 1706.03762.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import Tensor, nn

from ._base import AttentionLayer, errors_name_the_class
from ._checks import check_divides, check_positive_int
from ._ops import size_of
from .multi_head_attention import MultiHeadAttention

__all__ = ["PositionalEncoding", "TransformerDecoderLayer", "TransformerEncoderLayer"]


class _PyTorchArguments:
    """PyTorch's arguments for a layer of Paddle's, and :class:`MultiHeadAttention` in it."""

    _sub_layers: dict[str, nn.Layer]

    @errors_name_the_class
    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = False,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_divides(d_model, nhead=nhead)
        check_positive_int(dim_feedforward=dim_feedforward)
        super().__init__(  # type: ignore[call-arg]
            d_model, nhead, dim_feedforward, dropout, activation, normalize_before=norm_first
        )
        for name in ("self_attn", "cross_attn"):
            if name in self._sub_layers:
                setattr(self, name, MultiHeadAttention(d_model, nhead, dropout))
        self._config = config  # what Paddle's stacks of layers make their copies from


class TransformerEncoderLayer(_PyTorchArguments, nn.TransformerEncoderLayer):
    """``paddle.nn.TransformerEncoderLayer`` with PyTorch's masks, arguments and weights.

    Self-attention and a feed-forward network, each with a shortcut and layer normalisation
    (arXiv 1706.03762, section 3.1).

    Args:
        d_model (int): width.
        nhead (int): number of heads; must divide ``d_model``.
        dim_feedforward (int): hidden width of the feed-forward network.
        dropout (float): of every part.
        activation (str): ``'relu'`` or ``'gelu'``.
        norm_first (bool): normalise before the attention and the network, not after.

    A ``paddle.nn.TransformerEncoder`` of these layers takes booleans by Paddle's own rule (True =
    seen); give it the numbers of :func:`additive_mask`.

    Shape:
        ``src`` ``[N, L, d_model]`` in, the same out. Masks: see :func:`additive_mask`.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        cache: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        mask = self.self_attn._mask(src, src, src_mask, src_key_padding_mask, is_causal)
        return super().forward(src, mask, cache)

    def attention_maps(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """The weights of every head, ``[N, nhead, L, L]``."""
        x = self.norm1(src) if self.normalize_before else src
        return self.self_attn.attention_maps(
            x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, is_causal=is_causal
        )


class TransformerDecoderLayer(_PyTorchArguments, nn.TransformerDecoderLayer):
    """``paddle.nn.TransformerDecoderLayer`` with PyTorch's masks, arguments and weights.

    Self-attention, attention to ``memory`` and a feed-forward network, each with a
    shortcut and layer normalisation (arXiv 1706.03762, section 3.1). The arguments are those
    of :class:`TransformerEncoderLayer`.

    Shape:
        ``tgt`` ``[N, L, d_model]`` and ``memory`` ``[N, S, d_model]`` in, ``[N, L, d_model]`` out.
        Masks: see :func:`additive_mask`.
    """

    TORCH_KEYS = {"authors": {"cross_attn": "multihead_attn"}}

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
    ) -> Tensor:
        own = self.self_attn._mask(tgt, tgt, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        cross = self.cross_attn._mask(tgt, memory, memory_mask, memory_key_padding_mask, False)
        return super().forward(tgt, memory, own, cross, cache)

    def attention_maps(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
    ) -> Any:
        """``{'self': [N, nhead, L, L], 'cross': [N, nhead, L, S]}``, without dropout before the latter."""
        masks = {
            "attn_mask": tgt_mask,
            "key_padding_mask": tgt_key_padding_mask,
            "is_causal": tgt_is_causal,
        }
        x = self.norm1(tgt) if self.normalize_before else tgt
        own = self.self_attn.attention_maps(x, **masks)
        x = tgt + self.self_attn(x, **masks)
        x = self.norm2(x) if self.normalize_before else self.norm1(x)
        cross = self.cross_attn.attention_maps(
            x, memory, attn_mask=memory_mask, key_padding_mask=memory_key_padding_mask
        )
        return {"self": own, "cross": cross}


class PositionalEncoding(AttentionLayer):
    r"""Add sines and cosines of the position.

    .. math::
        PE_{p,2i} = \sin(p / 10000^{2i/d}), \qquad PE_{p,2i+1} = \cos(p / 10000^{2i/d})

    (arXiv 1706.03762, section 3.5.)

    Args:
        d_model (int): width.
        dropout (float): of the sum.
        max_len (int): longest sequence.

    Shape:
        ``[N, L, d_model]`` in, the same out; L at most ``max_len``.

    Raises:
        ValueError: for an argument out of range or a longer sequence.
    """

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 5000) -> None:
        super().__init__()
        check_positive_int(d_model=d_model, max_len=max_len)
        self.max_len = max_len
        angle = paddle.arange(max_len, dtype="float64").unsqueeze(1) * paddle.exp(
            paddle.arange(0, d_model, 2, dtype="float64") * (-math.log(10000.0) / d_model)
        )
        both = paddle.stack([paddle.sin(angle), paddle.cos(angle)], axis=2).flatten(1)[:, :d_model]
        self.register_buffer("pe", both.astype(paddle.get_default_dtype()), persistable=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        length = size_of(x, (1,))[0]
        if isinstance(length, int) and length > self.max_len:
            raise self.error(f"built for max_len={self.max_len}, but got a sequence of {length}")
        return self.dropout(x + self.pe[:length].astype(x.dtype))
