"""Spatial transformer.

M. Jaderberg, K. Simonyan, A. Zisserman, K. Kavukcuoglu, "Spatial Transformer
Networks", arXiv 1506.02025.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..registry import register_attention
from ._base import AttentionLayer
from ._checks import check_choice, check_positive_int, hidden_width
from ._init import conv
from ._ops import average_grid, full_precision, size_of, widen

__all__ = ["SpatialTransformer"]


@register_attention(
    "SpatialTransformer",
    paper="Spatial Transformer Networks",
    arxiv="1506.02025",
    year=2015,
    domain="spatial",
    computed_by="conv + FC",
    applied_by="resampling",
)
class SpatialTransformer(AttentionLayer):
    r"""Resample the feature map under an affine transformation predicted from it.

    .. math::
        \begin{pmatrix} x^s \\ y^s \end{pmatrix} = A_\theta \begin{pmatrix} x^t \\ y^t \\ 1 \end{pmatrix}

    (arXiv 1506.02025, equation 1), sampled bilinearly (equation 5); outside is 0. The
    localisation network is a 3x3 convolution, an average on a ``pool_size`` grid and
    two fully connected layers, the last of which starts at the identical transformation: at
    the start the output is the input up to rounding.

    Args:
        channels (int): channels of the input.
        reduction (int): the localisation network is ``channels // reduction`` wide.
        pool_size (int): side of its grid.
        align_corners (bool): coordinates -1 and 1 are the centres of the first and last pixels,
            not their outer edges.

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range or an input that is not
            ``[N, channels, H, W]``.
    """

    MAPS = {"": "grid"}

    def __init__(
        self, channels: int, reduction: int = 4, pool_size: int = 4, align_corners: bool = False
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        check_positive_int(pool_size=pool_size)
        check_choice("align_corners", align_corners, (False, True))
        self.channels, self.align_corners = channels, align_corners
        self.conv = conv(channels, hidden, 3, padding=1)
        self.pool_size = pool_size
        self.fc1 = conv(hidden, 2 * hidden, pool_size)
        self.fc2 = conv(2 * hidden, 6, zero=True)
        identity = paddle.to_tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], dtype=self.fc2.bias.dtype)
        self.fc2.bias.set_value(identity)

    def theta(self, x: Tensor) -> Tensor:
        """The transformations, ``[N, 2, 3]``."""
        y = average_grid(F.relu(self.conv(x)), (self.pool_size, self.pool_size))
        return self.fc2(F.relu(self.fc1(y))).reshape([0, 2, 3])

    def _steps(self, size: Any, dtype: Any) -> Tensor:
        """Centres of ``size`` pixels in [-1, 1]."""
        steps = paddle.arange(0, size).astype(dtype)
        size = size.astype(dtype) if paddle.is_tensor(size) else float(size)
        if self.align_corners:
            last = paddle.clip(size - 1.0, min=1.0) if paddle.is_tensor(size) else max(size - 1.0, 1.0)
            return 2.0 * steps / last - 1.0
        return (2.0 * steps + 1.0) / size - 1.0

    def grid(self, x: Tensor) -> Tensor:
        """Where each pixel is sampled, ``[N, H, W, 2]``: x and y, -1 to 1 across the map."""
        theta = self.theta(x)
        with full_precision():
            theta = widen(theta)
            height, width = size_of(x, (2, 3))
            across = self._steps(width, theta.dtype).reshape([1, 1, -1, 1])
            down = self._steps(height, theta.dtype).reshape([1, -1, 1, 1])
            columns = theta.transpose([0, 2, 1]).reshape([0, 3, 1, 1, 2])
            return across * columns[:, 0] + down * columns[:, 1] + columns[:, 2]

    def attention_maps(self, x: Tensor) -> Tensor:
        """Where each pixel is sampled, ``[N, H, W, 2]``: x and y, -1 to 1 across the map."""
        return self.grid(x)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        grid = self.grid(x)
        with full_precision():
            wide = widen(x)
            if wide.stop_gradient and not grid.stop_gradient and paddle.in_dynamic_mode():
                # After a frozen backbone: Paddle's backward pass of the sampling ends the process without this one.
                wide = wide.detach()
                wide.stop_gradient = False
            y = F.grid_sample(wide, grid, align_corners=self.align_corners)
        return y.astype(x.dtype)
