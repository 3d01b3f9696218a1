"""Frequency channel attention.

Z. Qin, P. Zhang, F. Wu, X. Li, "FcaNet: Frequency Channel Attention Networks",
arXiv 2012.11879; authors' code: cfzd/FcaNet.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_positive_int, hidden_width
from ._init import conv, start_from_zero
from ._ops import average_grid, full_precision, widen

__all__ = ["FcaLayer"]

# (row, column) frequencies on a 7 x 7 grid, best first, by three orders of the paper's section 4.
_FREQUENCIES = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
}


def frequencies(method: str) -> list[tuple[int, int]]:
    """The ``(row, column)`` frequencies of a method such as ``'top16'``, on a 7 x 7 grid."""
    order, number = str(method)[:3], str(method)[3:]
    if order not in _FREQUENCIES or number not in ("1", "2", "4", "8", "16", "32"):
        raise ValueError(
            f"freq_sel_method is 'top', 'low' or 'bot' and 1, 2, 4, 8, 16 or 32, "
            f"such as 'top16', but got {method!r}"
        )
    return [(int(pair[0]), int(pair[1])) for pair in _FREQUENCIES[order].split()[: int(number)]]


@register_attention(
    "FcaLayer",
    paper="FcaNet: Frequency Channel Attention Networks",
    arxiv="2012.11879",
    year=2020,
    domain="channel",
    computed_by="cosine transform + FC",
    applied_by="scale",
)
class FcaLayer(GateLayer):
    r"""Squeeze-and-excitation whose squeeze is a cosine transform, of another frequency per group.

    .. math::
        z_c = \sum_{h,w} x_{c,h,w}\, B^{u_c,v_c}_{h,w}, \qquad
        y_c = \sigma(W_2\, \mathrm{ReLU}(W_1 z))_c\, x_c

    (arXiv 2012.11879, equations 6 to 9; ``MultiSpectralAttentionLayer``.) B is a
    two-dimensional DCT basis on ``dct_h x dct_w``; another size is first averaged to
    that. The layers have no bias.

    Args:
        channels (int): channels of the input (``channel``); the number of frequencies must
            divide it.
        dct_h, dct_w (int): size of the basis, at least 7. The authors use 56, 28, 14
            and 7 in the four stages of a ResNet at 224 x 224.
        reduction (int): the hidden width is ``channels // reduction``.
        min_hidden (int, optional): the hidden width at least, for layers of few channels.
        freq_sel_method (str): which frequencies and how many, such as ``'top16'``.
        identity_init (bool): start as the identity: the gate is doubled and its
            last layer starts from 0.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {"authors": {"weight": "dct_layer.weight", "fc1": "fc.0", "fc2": "fc.2"}}

    def __init__(
        self,
        channels: int,
        dct_h: int = 7,
        dct_w: int = 7,
        reduction: int = 16,
        freq_sel_method: str = "top16",
        identity_init: bool = False,
        min_hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction, min_hidden=min_hidden)
        check_positive_int(dct_h=dct_h, dct_w=dct_w)
        if min(dct_h, dct_w) < 7:
            raise ValueError(f"dct_h and dct_w must be at least 7, but got {dct_h} and {dct_w}")
        chosen = frequencies(freq_sel_method)
        if channels % len(chosen):
            raise ValueError(
                f"channels={channels} is not divisible by the {len(chosen)} frequencies of "
                f"{freq_sel_method!r}; choose fewer"
            )
        self.channels, self.size = channels, (dct_h, dct_w)
        basis = [
            np.outer(self._wave(u * (dct_h // 7), dct_h), self._wave(v * (dct_w // 7), dct_w))
            for u, v in chosen
        ]
        basis = np.repeat(np.stack(basis), channels // len(chosen), axis=0)
        self.register_buffer("weight", paddle.to_tensor(basis.astype(paddle.get_default_dtype())))
        self.fc1 = conv(channels, hidden, bias=False)
        self.fc2 = conv(hidden, channels, bias=False)
        self.identity_init = identity_init
        if identity_init:
            start_from_zero(self.fc2.weight)

    @staticmethod
    def _wave(frequency: int, length: int) -> np.ndarray:
        wave = np.cos(np.pi * frequency * (np.arange(length) + 0.5) / length) / np.sqrt(length)
        return wave if frequency == 0 else wave * np.sqrt(2.0)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 1], or [0, 2] with ``identity_init``."""
        # To its own size this pooling changes nothing.
        small = x if tuple(x.shape[2:]) == self.size else average_grid(x, self.size)
        with full_precision():
            product = widen(small) * self.weight.astype(widen(small).dtype)
            z = F.adaptive_avg_pool2d(product, 1) * float(self.size[0] * self.size[1])
        gate = F.sigmoid(self.fc2(F.relu(self.fc1(z.astype(x.dtype)))))
        return 2.0 * gate if self.identity_init else gate
