"""Non-local blocks.

X. Wang, R. Girshick, A. Gupta, K. He, "Non-local Neural Networks", arXiv
1711.07971; after the code of AlexHex7/Non-local_pytorch.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import AttentionLayer, TorchKeys
from ._checks import check_choice, check_positive_int
from ._chunked_attention import (
    concatenation_attention,
    concatenation_attention_naive,
    dot_product_attention,
    dot_product_attention_naive,
    softmax_attention,
    softmax_attention_naive,
    softmax_weights,
)
from ._init import batch_norm, conv
from ._ops import full_precision, unflatten_like, widen

__all__ = ["NonLocal1D", "NonLocal2D", "NonLocal3D"]

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


class _NonLocal(AttentionLayer):
    MAPS = {"": "positions"}

    def __init__(
        self,
        channels: int,
        inter_channels: Any = None,
        mode: str = MODES[0],
        sub_sample: bool = True,
        bn: bool = True,
        naive: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(channels=channels)
        inter_channels = max(channels // 2, 1) if inter_channels is None else inter_channels
        check_positive_int(inter_channels=inter_channels)
        check_choice("mode", mode, MODES)
        self.channels, self.inter_channels, self.mode = channels, inter_channels, mode
        self.naive = naive
        self.g = conv(channels, inter_channels, cls=self._conv)
        if mode != "gaussian":
            self.theta = conv(channels, inter_channels, cls=self._conv)
            self.phi = conv(channels, inter_channels, cls=self._conv)
        if mode == "concatenation":
            self.concat_project = conv(2 * inter_channels, 1, bias=False)
        self.pool = self._pool() if sub_sample else None
        # Normalised: the last scale is zero. Not: the last convolution is.
        self.W = conv(inter_channels, channels, cls=self._conv, zero=not bn)
        self.W_bn = batch_norm(channels, cls=self._bn, zero=True) if bn else None

    def torch_keys(self) -> TorchKeys:
        """Names in the code ported from, which depend on the options."""
        pooled = {"g": "g.0", "phi": "phi.0"} if self.pool is not None else {}
        projected = {"W": "W.0", "W_bn": "W.1"} if self.W_bn is not None else {}
        return {"authors": {**pooled, **projected, "concat_project": "concat_project.0"}}

    def _sub_sample(self, x: Tensor) -> Tensor:
        return x if self.pool is None else self.pool(x)

    def _embed(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, each ``[N, C', positions]``."""
        value = self._sub_sample(self.g(x)).flatten(2)
        if self.mode == "gaussian":
            return x.flatten(2), self._sub_sample(x).flatten(2), value
        return self.theta(x).flatten(2), self._sub_sample(self.phi(x)).flatten(2), value

    def _halves(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """``a_i`` and ``b_j`` of ReLU(a_i + b_j): the projection of [theta, phi] is a sum of two."""
        weight = self.concat_project.weight.flatten(1).astype(query.dtype)
        half = self.inter_channels
        a, b = paddle.matmul(weight[:, :half], query), paddle.matmul(weight[:, half:], key)
        return a.squeeze(1), b.squeeze(1)

    def attention_maps(self, x: Tensor) -> Tensor:
        """Weights of positions for positions, ``[N, positions, sub-sampled positions]``.

        With ``'dot_product'`` and ``'concatenation'`` divided by the number of the
        latter; they need not sum to 1.
        """
        query, key, _ = self._embed(x)
        with full_precision():
            query, key = widen(query), widen(key)
            if self.mode == "concatenation":
                a, b = self._halves(query, key)
                return paddle.nn.functional.relu(a.unsqueeze(2) + b.unsqueeze(1)) / b.shape[1]
            if self.mode == "dot_product":
                return paddle.matmul(query, key, transpose_x=True) / key.shape[2]
            return softmax_weights(query, key)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x, self._rank)
        query, key, value = self._embed(x)
        if self.mode == "concatenation":
            attend = concatenation_attention_naive if self.naive else concatenation_attention
            a, b = self._halves(query, key)
            y = attend(a, b, value)
        elif self.mode == "dot_product":
            y = (dot_product_attention_naive if self.naive else dot_product_attention)(query, key, value)
        else:
            y = (softmax_attention_naive if self.naive else softmax_attention)(query, key, value)
        y = self.W(unflatten_like(y, x))
        return x + (y if self.W_bn is None else self.W_bn(y))


_DOC = r"""Add to every position a weighted mean of all positions, {of}.

    .. math::
        z_i = W_z \sum_j \frac{{f(x_i, x_j)}}{{\mathcal C(x)}}\, g(x_j) + x_i

    (arXiv 1711.07971, equations 1 and 6), where :math:`f/\mathcal C` is, by ``mode``,

    * ``'gaussian'``: :math:`\mathrm{{softmax}}_j(x_i^T x_j)` (equation 2);
    * ``'embedded_gaussian'``: :math:`\mathrm{{softmax}}_j(\theta_i^T \phi_j)` (equation 3);
    * ``'dot_product'``: :math:`\theta_i^T \phi_j / M` (equation 4);
    * ``'concatenation'``: :math:`\mathrm{{ReLU}}(w^T [\theta_i, \phi_j]) / M` (equation 5).

    There is no :math:`1/\sqrt d`. M is the number of (sub-sampled) positions
    summed over. ``'dot_product'`` and ``'concatenation'`` are computed in
    another, equal order that needs no positions x positions matrix; the
    softmax takes query chunks.

    It starts as the identity: the last normalisation (or convolution) is zero.

    Args:
        channels (int): channels of the input (``in_channels``).
        inter_channels (int, optional): width of the embeddings. Default: half of ``channels``.
        mode (str): see above.
        sub_sample (bool): {pool} of keys and values. The input must then be at
            least 2 wide along the pooled axes.
        bn (bool): batch normalisation after ``W_z``.
        naive (bool): the reference form of the sum, to test against.

    Shape:
        ``{shape}`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input of another shape.
    """


class NonLocal1D(_NonLocal):
    __doc__ = _DOC.format(of="in a sequence", pool="max pooling by 2", shape="[N, channels, L]")
    _conv, _bn, _rank = nn.Conv1D, nn.BatchNorm1D, 3

    @staticmethod
    def _pool() -> nn.Layer:
        return nn.MaxPool1D(2)


@register_attention(
    "NonLocal2D",
    paper="Non-local Neural Networks",
    arxiv="1711.07971",
    year=2017,
    domain="spatial",
    computed_by="matmul",
    applied_by="matmul, add",
)
class NonLocal2D(_NonLocal):
    __doc__ = _DOC.format(of="in an image", pool="2x2 max pooling", shape="[N, channels, H, W]")
    _conv, _bn, _rank = nn.Conv2D, nn.BatchNorm2D, 4

    @staticmethod
    def _pool() -> nn.Layer:
        return nn.MaxPool2D(2)


class NonLocal3D(_NonLocal):
    __doc__ = _DOC.format(of="in a video", pool="1x2x2 max pooling", shape="[N, channels, T, H, W]")
    _conv, _bn, _rank = nn.Conv3D, nn.BatchNorm3D, 5

    @staticmethod
    def _pool() -> nn.Layer:
        return nn.MaxPool3D((1, 2, 2))
