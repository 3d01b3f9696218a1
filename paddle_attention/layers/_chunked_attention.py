"""Attention over positions, exactly, without a positions x positions matrix where none is needed.

Queries, keys and values are ``[N, channels, positions]``; every function
returns ``[N, value channels, query positions]``. Products are written with
``transpose_x`` or :func:`matmul_transposed` and not with ``transpose``: Paddle Inference
fuses a reshape, a transpose and a product into one kernel that gives wrong numbers.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from ._ops import full_precision, widen

# With more attention scores than this (4 MB) the queries are taken in chunks of so many.
_SCORES, _QUERIES = 2**20, 256
_STATIC_CHUNKS = 32  # at most, about: each is some operations of an exported graph


def matmul_transposed(x: Tensor, y: Tensor) -> Tensor:
    """``[N, A, K], [N, B, K] -> [N, A, B]``, the product with the transpose of ``y``.

    The accelerated kernel of Paddle Inference gives wrong numbers for K = 1, so the
    static graph takes another operator.
    """
    if paddle.in_dynamic_mode():
        return paddle.matmul(x, y, transpose_y=True)
    return paddle.bmm(x, y.transpose([0, 2, 1]))


def average(value: Tensor, weights: Tensor) -> Tensor:
    """``[N, E, M], [N, L, M] -> [N, E, L]``: the values averaged with each row of weights."""
    if paddle.in_dynamic_mode():
        return paddle.matmul(value, weights, transpose_y=True)
    # The values are the smaller of the two to be transposed; see matmul_transposed.
    return paddle.bmm(weights, value.transpose([0, 2, 1])).transpose([0, 2, 1])


def softmax_weights(query: Tensor, key: Tensor, scale: float = 1.0) -> Tensor:
    """softmax over keys of ``scale * query . key``: ``[N, query positions, key positions]``."""
    scores = paddle.matmul(query, key, transpose_x=True)
    return F.softmax(scores * scale if scale != 1.0 else scores, axis=-1)


def softmax_attention_naive(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """The reference form, which keeps all attention scores."""
    return average(value, softmax_weights(query, key, scale))


def _chunks(query: Tensor, key: Tensor, chunk: int | None) -> list[tuple[int, int]]:
    """Bounds of the query chunks."""
    positions, chunk = query.shape[2], chunk or _QUERIES
    return [(i, min(i + chunk, positions)) for i in range(0, positions, chunk)]


def _in_chunks(query: Tensor, key: Tensor, value: Tensor, scale: float, chunk: int | None) -> Tensor:
    parts = [
        softmax_attention_naive(query[:, :, i:j], key, value, scale) for i, j in _chunks(query, key, chunk)
    ]
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=2)


class _Recompute(PyLayer):
    """:func:`_in_chunks` whose backward computes the weights again instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, chunk: int | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.chunk = scale, chunk
        ctx.wanted = [not t.stop_gradient for t in (query, key, value)]
        return _in_chunks(query, key, value, scale, chunk)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        with full_precision():  # as the forward pass, wherever backward is called
            found = _Recompute._gradients(ctx, gradient, *ctx.saved_tensor())
        # Paddle wants None for what needs no gradient.
        return tuple(g if wanted else None for g, wanted in zip(found, ctx.wanted))

    @staticmethod
    def _gradients(
        ctx: Any, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        query_parts, key_gradient, value_gradient = [], None, None
        for i, j in _chunks(query, key, ctx.chunk):
            part, wanted = query[:, :, i:j], gradient[:, :, i:j]
            weights = softmax_weights(part, key, ctx.scale)
            moved = paddle.matmul(wanted, value, transpose_x=True)
            scores = weights * (moved - (moved * weights).sum(axis=-1, keepdim=True)) * ctx.scale
            query_parts.append(paddle.matmul(key, scores, transpose_y=True))
            to_key, to_value = paddle.matmul(part, scores), paddle.matmul(wanted, weights)
            key_gradient = to_key if key_gradient is None else key_gradient + to_key
            value_gradient = to_value if value_gradient is None else value_gradient + to_value
        return paddle.concat(query_parts, axis=2), key_gradient, value_gradient


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0, chunk: int | None = None, heads: int = 1
) -> Tensor:
    r"""Values averaged with softmax weights, :math:`\mathrm{softmax}_j(s\, q_i \cdot k_j)\, v_j`.

    Attention scores and softmax are in float32 also under automatic mixed precision.
    With more than 2\ :sup:`20` attention scores the queries are taken in chunks (in an exported graph
    where it knows the size), and the
    backward pass computes the weights again, so the memory needed grows with the
    number of positions and not with its square. The numbers are those of
    :func:`softmax_attention_naive` up to rounding.

    Args:
        query, key, value (Tensor): ``[N, D, L]``, ``[N, D, M]`` and ``[N, E, M]``.
        scale (float): factor of the attention scores.
        chunk (int, optional): take this many queries at a time, for tests.
        heads (int): how many of N are of one image, which an exported graph does not know.

    Returns:
        Tensor ``[N, E, L]`` in the type of ``value``.
    """
    dtype = value.dtype
    with full_precision():
        query, key, value = widen(query), widen(key), widen(value)
        # A static graph may not know the sizes, which are -1 then.
        few = chunk is None and query.shape[2] * key.shape[2] <= _SCORES
        if few or min(query.shape[2], key.shape[2]) < 0:
            out = softmax_attention_naive(query, key, value, scale)
        elif not paddle.in_dynamic_mode():
            size = max(_QUERIES, query.shape[2] // _STATIC_CHUNKS) // heads
            out = _in_chunks(query, key, value, scale, chunk or max(1, size))
        elif paddle.is_grad_enabled() and not all(t.stop_gradient for t in (query, key, value)):
            out = _Recompute.apply(query, key, value, scale, chunk)
        else:
            out = _in_chunks(query, key, value, scale, chunk)
        return out.astype(dtype)


def dot_product_attention_naive(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The reference form of :func:`dot_product_attention`."""
    weights = paddle.matmul(query, key, transpose_x=True) / key.shape[2]
    return average(value, weights)


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    r"""Values averaged with plain dot products, :math:`\frac1M \sum_j (q_i \cdot k_j)\, v_j`.

    Computed as :math:`(\sum_j v_j k_j^T)\, q_i`, which is the same sum in another
    order and needs no positions x positions matrix.
    """
    dtype = value.dtype
    with full_precision():
        query, key, value = widen(query), widen(key), widen(value)
        # The mean over key positions: a product with their number unknown to a static graph.
        positions = paddle.shape(key)[2].astype(key.dtype) if key.shape[2] < 0 else float(key.shape[2])
        context = matmul_transposed(value, key / positions)
        return paddle.matmul(context, query).astype(dtype)


def concatenation_attention_naive(a: Tensor, b: Tensor, value: Tensor) -> Tensor:
    """The reference form of :func:`concatenation_attention`."""
    weights = F.relu(a.unsqueeze(2) + b.unsqueeze(1)) / b.shape[1]
    return average(value, weights)


def concatenation_attention(a: Tensor, b: Tensor, value: Tensor) -> Tensor:
    r"""Values averaged with :math:`\frac1M\, \mathrm{ReLU}(a_i + b_j)`.

    Of the keys only those with :math:`b_j > -a_i` count. With keys sorted by
    ``b`` these are the first so many, and their sum is read from running sums of
    :math:`v_j` and :math:`b_j v_j`: O(L log M) instead of O(L M). The running
    sums are in float64, because their differences cancel.

    Args:
        a, b (Tensor): ``[N, L]`` and ``[N, M]``.
        value (Tensor): ``[N, E, M]``.
    """
    dtype = value.dtype
    with full_precision():
        a, b, value = (t.astype("float64") for t in (a, b, value))
        # Divided here and not at the end: Paddle Inference would join the sum and the division into one
        # kernel, which cannot compute in float64.
        positions = paddle.shape(b)[1].astype("float64") if b.shape[1] < 0 else float(b.shape[1])
        value = value / positions
        order = paddle.argsort(b, axis=1, descending=True)
        b = paddle.take_along_axis(b, order, axis=1)
        value = _pick(value, order)
        # counts[i] keys have -b < a_i, that is a_i + b > 0
        counts = paddle.searchsorted((-b).detach(), a.detach())
        plain = _pick(_running_sums(value), counts)
        weighted = _pick(_running_sums(value * b.unsqueeze(1)), counts)
        return (a.unsqueeze(1) * plain + weighted).astype(dtype)


def _running_sums(value: Tensor) -> Tensor:
    """``[N, E, M] -> [N, E, M + 1]``, the sums of the first 0, 1, ... M positions."""
    return paddle.cumsum(paddle.concat([paddle.zeros_like(value[:, :, :1]), value], axis=2), axis=2)


def _pick(value: Tensor, index: Any) -> Tensor:
    """Positions ``index`` ``[N, L]`` of ``value`` ``[N, E, M]``: ``[N, E, L]``."""
    index = index.unsqueeze(1).expand([-1, value.shape[1], -1])
    return paddle.take_along_axis(value, index, axis=2, broadcast=False)
