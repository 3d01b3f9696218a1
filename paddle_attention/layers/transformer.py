"""Transformer attention: on sequences, over Paddle's own layers, and on feature maps.

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
I. Polosukhin, "Attention Is All You Need", arXiv 1706.03762. Relative positions:
P. Shaw, J. Uszkoreit, A. Vaswani, arXiv 1803.02155, in two dimensions as in I. Bello,
B. Zoph, A. Vaswani, J. Shlens, Q. V. Le, arXiv 1904.09925.

Masks are PyTorch's: ``True`` means **blocked**. (Paddle's own layers take the opposite
boolean, or numbers to add.)
"""

import math

import paddle
from paddle import nn

from ._attend import average, skew, softmax_attention, softmax_weights
from ._common import (
    HALF,
    AttentionLayer,
    check_divides,
    check_feature_map,
    check_pair,
    check_positive_int,
    conv,
    full_precision,
    size_of,
    unflatten_like,
    widen,
)


def _thirds(part):
    return lambda w: w.reshape(3, w.shape[0] // 3, *w.shape[1:])[part]


def additive_mask(
    attn_mask=None, key_padding_mask=None, is_causal=False, sizes=(None, 1, None, None), dtype="float32"
):
    """One mask to add to the energies, from PyTorch's masks.

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


def _four_axes(mask, batch, heads):
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


def _check_sizes(name, given, shape, wanted):
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

    Shape:
        ``query`` ``[N, L, embed_dim]``, ``key`` ``[N, S, kdim]``, ``value`` ``[N, S, vdim]``; out
        ``[N, L, embed_dim]``. Masks: see :func:`additive_mask`.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dim``, or for a bad mask.
    """

    def torch_keys(self):
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

    def __init__(self, embed_dim, num_heads, dropout=0.0, kdim=None, vdim=None, bias=True):
        check_divides("MultiHeadAttention", embed_dim, num_heads=num_heads)
        super().__init__(embed_dim, num_heads, dropout, kdim, vdim, bias_attr=None if bias else False)

    def forward(
        self, query, key=None, value=None, attn_mask=None, cache=None, key_padding_mask=None, is_causal=False
    ):
        key = query if key is None else key
        value = key if value is None else value
        attn_mask = self._mask(query, key, attn_mask, key_padding_mask, is_causal)
        return super().forward(query, key, value, attn_mask, cache)

    def _mask(self, query, key, attn_mask, key_padding_mask, is_causal):
        sizes = (*size_of(query, (0,)), self.num_heads, *size_of(query, (1,)), *size_of(key, (1,)))
        return additive_mask(attn_mask, key_padding_mask, is_causal, sizes, query.dtype)

    def attention_maps(
        self, query, key=None, value=None, attn_mask=None, key_padding_mask=None, is_causal=False
    ):
        """The weights of every head, ``[N, num_heads, L, S]``."""
        key = query if key is None else key
        mask = self._mask(query, key, attn_mask, key_padding_mask, is_causal)

        def heads(x):
            return x.reshape([0, 0, self.num_heads, self.head_dim]).transpose([0, 2, 1, 3])

        q, k = heads(self.q_proj(query)), heads(self.k_proj(key))
        energy = paddle.matmul(q * self.head_dim**-0.5, k, transpose_y=True)
        return nn.functional.softmax(energy if mask is None else energy + mask)


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
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

    def __init__(
        self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", norm_first=False
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_divides("TransformerEncoderLayer", d_model, nhead=nhead)
        check_positive_int("TransformerEncoderLayer", dim_feedforward=dim_feedforward)
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, normalize_before=norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout)
        self._config = config  # what paddle.nn.TransformerEncoder makes its copies from

    def forward(self, src, src_mask=None, cache=None, src_key_padding_mask=None, is_causal=False):
        mask = self.self_attn._mask(src, src, src_mask, src_key_padding_mask, is_causal)
        return super().forward(src, mask, cache)

    def attention_maps(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        """The weights of every head, ``[N, nhead, L, L]``."""
        x = self.norm1(src) if self.normalize_before else src
        return self.self_attn.attention_maps(
            x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, is_causal=is_causal
        )


class TransformerDecoderLayer(nn.TransformerDecoderLayer):
    """``paddle.nn.TransformerDecoderLayer`` with PyTorch's masks, arguments and weights.

    Self-attention, attention to ``memory`` and a feed-forward network, each with a
    shortcut and layer normalisation (arXiv 1706.03762, section 3.1). The arguments are those
    of :class:`TransformerEncoderLayer`.

    Shape:
        ``tgt`` ``[N, L, d_model]`` and ``memory`` ``[N, S, d_model]`` in, ``[N, L, d_model]`` out.
        Masks: see :func:`additive_mask`.
    """

    TORCH_KEYS = {"authors": {"cross_attn": "multihead_attn"}}

    def __init__(
        self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", norm_first=False
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_divides("TransformerDecoderLayer", d_model, nhead=nhead)
        check_positive_int("TransformerDecoderLayer", dim_feedforward=dim_feedforward)
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, normalize_before=norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout)
        self.cross_attn = MultiHeadAttention(d_model, nhead, dropout)
        self._config = config  # what paddle.nn.TransformerDecoder makes its copies from

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        cache=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal=False,
    ):
        own = self.self_attn._mask(tgt, tgt, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        cross = self.cross_attn._mask(tgt, memory, memory_mask, memory_key_padding_mask, False)
        return super().forward(tgt, memory, own, cross, cache)

    def attention_maps(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal=False,
    ):
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

    def __init__(self, d_model, dropout=0.1, max_len=5000):
        super().__init__()
        check_positive_int("PositionalEncoding", d_model=d_model, max_len=max_len)
        self.max_len = max_len
        angle = paddle.arange(max_len, dtype="float64").unsqueeze(1) * paddle.exp(
            paddle.arange(0, d_model, 2, dtype="float64") * (-math.log(10000.0) / d_model)
        )
        both = paddle.stack([paddle.sin(angle), paddle.cos(angle)], axis=2).flatten(1)[:, :d_model]
        self.register_buffer("pe", both.astype(paddle.get_default_dtype()), persistable=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        length = size_of(x, (1,))[0]
        if isinstance(length, int) and length > self.max_len:
            raise ValueError(
                f"PositionalEncoding was built for max_len={self.max_len}, but got a sequence of {length}"
            )
        return self.dropout(x + self.pe[:length].astype(x.dtype))


class SelfAttention2D(AttentionLayer):
    r"""Multi-head self-attention among the positions of a feature map, with a shortcut.

    .. math::
        y = x + W^O \Bigl[\mathrm{softmax}_j\Bigl(\frac{q_i \cdot (k_j + r^h_{j-i} + r^w_{j-i})}{\sqrt d}\Bigr) v_j\Bigr]

    (arXiv 1706.03762, section 3.2.2, with the relative positions of arXiv 1904.09925,
    equation 3, if ``relative_size`` is given). It starts as the identity: the last
    convolution is zero.

    Args:
        channels (int): channels of the input.
        num_heads (int): must divide ``channels``.
        relative_size (tuple of int, optional): ``(H, W)``: learn a vector for every
            vertical offset below H and every horizontal one below W. Farther
            positions get none.
        bias (bool): biases in the 1x1 convolutions.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    def __init__(self, channels, num_heads=4, relative_size=None, bias=True):
        super().__init__()
        check_divides("SelfAttention2D", channels, num_heads=num_heads)
        self.channels, self.num_heads = channels, num_heads
        self.head_dim = channels // num_heads
        self.query_conv = conv(channels, channels, bias=bias)
        self.key_conv = conv(channels, channels, bias=bias)
        self.value_conv = conv(channels, channels, bias=bias)
        self.out_conv = conv(channels, channels, bias=bias, zero=True)
        self.relative = relative_size is not None
        if self.relative:
            height, width = check_pair("SelfAttention2D", "relative_size", relative_size)
            attr = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, self.head_dim**-0.5))
            self.rel_h = self.create_parameter([self.head_dim, 2 * height - 1], attr=attr)
            self.rel_w = self.create_parameter([self.head_dim, 2 * width - 1], attr=attr)

    def _heads(self, x):
        """``[N * heads, head_dim, positions]``."""
        height, width = size_of(x, (2, 3))
        return x.reshape([-1, self.head_dim, height * width])

    def _weights(self, query, key, x):
        """``[N * heads, positions, positions]``, with relative positions."""
        height, width = size_of(x, (2, 3))
        query = query * self.head_dim**-0.5
        energy = paddle.matmul(query, key, transpose_x=True)
        batch = size_of(query, (0,))[0]
        flat = query.transpose([0, 2, 1]).reshape([batch, height, width, self.head_dim])
        # q . r of every offset, then moved to the positions that have these offsets.
        rows = paddle.matmul(flat, widen(self.rel_h)).transpose([0, 2, 1, 3])
        rows = skew(rows, height).transpose([0, 2, 1, 3]).unsqueeze(4)  # N, H, W, other H, 1
        columns = skew(paddle.matmul(flat, widen(self.rel_w)), width).unsqueeze(3)  # N, H, W, 1, other W
        energy = energy + (rows + columns).reshape([batch, height * width, height * width])
        return nn.functional.softmax(energy, axis=-1)

    def attention_maps(self, x):
        """Weights of positions (last axis) for positions, ``[N, heads, H * W, H * W]``."""
        query, key = self._heads(self.query_conv(x)), self._heads(self.key_conv(x))
        with full_precision():
            query, key = widen(query), widen(key)
            if self.relative:
                weights = self._weights(query, key, x)
            else:
                weights = softmax_weights(query, key, self.head_dim**-0.5)
        height, width = size_of(x, (2, 3))
        return weights.reshape([-1, self.num_heads, height * width, height * width])

    def forward(self, x):
        check_feature_map("SelfAttention2D", x, self.channels)
        maps = (self.query_conv(x), self.key_conv(x), self.value_conv(x))
        query, key, value = (self._heads(t) for t in maps)
        if self.relative:
            with full_precision():
                weights = self._weights(widen(query), widen(key), x)
                y = average(widen(value), weights).astype(x.dtype)
        else:
            y = softmax_attention(query, key, value, self.head_dim**-0.5)
        height, width = size_of(x, (2, 3))
        y = y.reshape([-1, self.channels, height * width])
        return x + self.out_conv(unflatten_like(y, x))

    def extra_repr(self):
        return f"channels={self.channels}, num_heads={self.num_heads}"
