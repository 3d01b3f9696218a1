"""Multi-head attention on sequences, over Paddle's own layer, and its masks.

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
I. Polosukhin, "Attention Is All You Need", arXiv 1706.03762.

Masks are PyTorch's: ``True`` means **blocked**. (Paddle's own layers take the opposite
boolean, or numbers to add.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

from ._base import TorchKeys, errors_name_the_class
from ._checks import check_divides
from ._ops import HALF, size_of

__all__ = ["MultiHeadAttention"]


def _thirds(part: int) -> Callable[..., Any]:
    return lambda w: w.reshape(3, w.shape[0] // 3, *w.shape[1:])[part]


def additive_mask(
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    sizes: Sequence[Any] = (None, 1, None, None),
    dtype: str = "float32",
) -> Tensor | None:
    """One mask to add to the attention scores, from PyTorch's masks.

    Args:
        attn_mask (Tensor, optional): ``[L, S]``, ``[N, L, S]``, ``[N * heads, L, S]`` or
            ``[N, heads, L, S]``; boolean, ``True`` where a query may *not* see a key, or
            floating-point numbers to add.
        key_padding_mask (Tensor, optional): ``[N, S]`` boolean, ``True`` for keys that no query may see.
        is_causal (bool): a query may not see later keys.
        sizes (tuple): ``(N, heads, L, S)``, to check against and for ``is_causal``; unknown ones are
            None or tensors.
        dtype: type of the result.

    Returns:
        Tensor that broadcasts to ``[N, heads, L, S]``, or None if nothing is masked. Blocked
        keys get -1e9 (-3e4 in half precision): a query all of whose keys are blocked sees all
        alike (where PyTorch gives NaN).

    Raises:
        ValueError: for masks of another shape or type.
    """
    batch, heads, queries, keys = sizes
    blocked, added = [], None
    if attn_mask is not None:
        mask = _four_axes(attn_mask, batch, heads)
        _check_sizes("attn_mask", attn_mask, mask.shape, (batch, heads, queries, keys))
        if mask.dtype == paddle.bool:
            blocked.append(mask)
        else:
            added = mask.astype(dtype)
    if key_padding_mask is not None:
        if key_padding_mask.dtype != paddle.bool or len(key_padding_mask.shape) != 2:
            raise ValueError(
                "key_padding_mask must be boolean [N, S], True for keys to ignore, but got "
                f"{key_padding_mask.dtype} of shape {list(key_padding_mask.shape)}"
            )
        _check_sizes("key_padding_mask", key_padding_mask, key_padding_mask.shape, (batch, keys))
        blocked.append(key_padding_mask.unsqueeze([1, 2]))
    if is_causal:
        later = paddle.triu(paddle.ones([queries, keys], dtype="int32"), diagonal=1)
        blocked.append(later.astype("bool").unsqueeze([0, 1]))
    least = -3e4 if dtype in HALF or dtype in ("float16", "bfloat16") else -1e9
    if added is not None:
        added = paddle.clip(added, min=least)  # -inf in every place of a row would be NaN
    if not blocked:
        return added
    together = blocked[0]
    for mask in blocked[1:]:
        together = paddle.logical_or(together, mask)
    # Blocked twice is no more than once.
    total = together.astype(dtype) * least
    return total if added is None else paddle.clip(total + added, min=least)


def _four_axes(mask: Tensor, batch: Any, heads: int) -> Tensor:
    """``mask`` so that it broadcasts to ``[N, heads, L, S]``."""
    shape = list(mask.shape)
    if mask.dtype != paddle.bool and not paddle.is_floating_point(mask):
        raise ValueError(
            f"attn_mask must be boolean (True = blocked) or floating-point numbers to add, but got {mask.dtype}"
        )
    if len(shape) == 2:
        return mask.unsqueeze([0, 1])
    if len(shape) == 4:
        return mask
    if len(shape) != 3:
        raise ValueError(
            f"attn_mask must be [L, S], [N, L, S], [N * heads, L, S] or [N, heads, L, S], but got shape {shape}"
        )
    if isinstance(batch, int) and batch > 0 and heads > 1 and shape[0] == batch * heads:
        return mask.reshape([batch, heads, *shape[1:]])
    return mask.unsqueeze(1)


def _check_sizes(name: str, given: Tensor, shape: Sequence[int], wanted: Sequence[Any]) -> None:
    """Raise ValueError where a known size is neither 1 nor the wanted one."""
    for got, size in zip(shape, wanted):
        known = isinstance(got, int) and isinstance(size, int) and got > 0 and size > 0
        if known and got not in (1, size):
            raise ValueError(
                f"{name} of shape {list(given.shape)} does not fit the attention of sizes "
                f"{[s for s in wanted if isinstance(s, int)]}"
            )


class MultiHeadAttention(nn.MultiHeadAttention):
    r"""``paddle.nn.MultiHeadAttention`` with PyTorch's masks and weights.

    .. math::
        \mathrm{head}_i = \mathrm{softmax}\Bigl(\frac{Q W^Q_i (K W^K_i)^T}{\sqrt{d}}\Bigr) V W^V_i, \qquad
        y = [\mathrm{head}_1, \ldots] W^O

    (arXiv 1706.03762, equation 1 and section 3.2.2.)

    Args:
        embed_dim (int): width of queries and of the output.
        num_heads (int): must divide ``embed_dim``.
        dropout (float): of the attention weights.
        kdim, vdim (int, optional): width of keys and values. Default: ``embed_dim``.
        bias (bool): biases in all four projections.
        add_bias_kv (bool): one learned key and value after those of the sequence.
        add_zero_attn (bool): a key and value of zeros after all others.

    No mask hides what these two options append.

    Shape:
        ``query`` ``[N, L, embed_dim]``, ``key`` ``[N, S, kdim]``, ``value`` ``[N, S, vdim]``; out
        ``[N, L, embed_dim]``. Masks: see :func:`additive_mask`.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dim``, or for a bad mask.
    """

    def torch_keys(self) -> TorchKeys:
        """PyTorch packs the three projections unless keys or values have their own width."""
        if self.kdim == self.vdim == self.embed_dim:
            packed = {
                f"{name}_proj.{leaf}": (f"in_proj_{leaf}", _thirds(part))
                for part, name in enumerate("qkv")
                for leaf in ("weight", "bias")
            }
            return {"authors": packed}
        weights = {f"{name}_proj.weight": f"{name}_proj_weight" for name in "qkv"}
        biases = {f"{name}_proj.bias": ("in_proj_bias", _thirds(part)) for part, name in enumerate("qkv")}
        return {"authors": {**weights, **biases}}

    @errors_name_the_class
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
    ) -> None:
        check_divides(embed_dim, num_heads=num_heads)
        super().__init__(embed_dim, num_heads, dropout, kdim, vdim, bias_attr=None if bias else False)
        self.add_zero_attn = add_zero_attn
        self.bias_k = self.bias_v = None
        if add_bias_kv:
            xavier = nn.initializer.XavierNormal()
            self.bias_k = self.create_parameter([1, 1, embed_dim], default_initializer=xavier)
            self.bias_v = self.create_parameter([1, 1, embed_dim], default_initializer=xavier)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        attn_mask: Tensor | None = None,
        cache: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        key = query if key is None else key
        value = key if value is None else value
        attn_mask = self._mask(query, key, attn_mask, key_padding_mask, is_causal)
        return super().forward(query, key, value, attn_mask, cache)

    def _prepare_qkv(
        self, query: Tensor, key: Tensor, value: Tensor, cache: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *cache = super()._prepare_qkv(query, key, value, cache)
        return (query, self._append(key, self.bias_k), self._append(value, self.bias_v), *cache)

    def _append(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``[N, heads, S, head_dim]`` with what ``add_bias_kv`` and ``add_zero_attn`` add to S."""
        parts = [x]
        if bias is not None:
            own = bias.reshape([1, 1, self.num_heads, self.head_dim]).transpose([0, 2, 1, 3]).astype(x.dtype)
            parts.append(own.expand([*size_of(x, (0,)), -1, -1, -1]))
        if self.add_zero_attn:
            parts.append(paddle.zeros_like(x[:, :, :1]))
        return x if len(parts) == 1 else paddle.concat(parts, axis=2)

    def _mask(
        self,
        query: Tensor,
        key: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        is_causal: bool,
    ) -> Tensor:
        sizes = (*size_of(query, (0,)), self.num_heads, *size_of(query, (1,)), *size_of(key, (1,)))
        mask = additive_mask(attn_mask, key_padding_mask, is_causal, sizes, query.dtype)
        added = (self.bias_k is not None) + bool(self.add_zero_attn)
        if mask is None or not added:
            return mask
        if mask.shape[-1] == 1:
            mask = mask.expand([-1, -1, -1, *size_of(key, (1,))])
        return paddle.concat([mask, *[paddle.zeros_like(mask[..., :1])] * added], axis=-1)

    def attention_maps(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The weights of every head, ``[N, num_heads, L, S]``, S with what the options add to it."""
        key = query if key is None else key
        mask = self._mask(query, key, attn_mask, key_padding_mask, is_causal)

        def heads(x: Tensor) -> Tensor:
            return x.reshape([0, 0, self.num_heads, self.head_dim]).transpose([0, 2, 1, 3])

        q, k = heads(self.q_proj(query)), self._append(heads(self.k_proj(key)), self.bias_k)
        scores = paddle.matmul(q * self.head_dim**-0.5, k, transpose_y=True)
        return nn.functional.softmax(scores if mask is None else scores + mask)
