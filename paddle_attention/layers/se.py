"""Squeeze-and-Excitation.

J. Hu, L. Shen, S. Albanie, G. Sun, E. Wu, "Squeeze-and-Excitation Networks",
arXiv 1709.01507.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ..registry import register_attention
from ._base import GateLayer
from ._checks import check_choice, hidden_width
from ._init import pointwise, start_from_zero
from ._ops import hard_sigmoid

__all__ = ["SEBlock"]

GATES = {"sigmoid": F.sigmoid, "hard_sigmoid": hard_sigmoid}


@register_attention(
    "SE",
    paper="Squeeze-and-Excitation Networks",
    arxiv="1709.01507",
    year=2017,
    domain="channel",
    computed_by="avg pool + FC",
    applied_by="scale",
    takes_tokens=True,
)
class SEBlock(GateLayer):
    r"""Rescale every channel by a gate computed from all channels' global averages.

    .. math::
        z_c &= \frac{1}{HW} \sum_{i,j} x_{c,i,j}            && \text{(2)} \\
        s   &= \sigma(W_2\, \mathrm{ReLU}(W_1 z + b_1) + b_2) && \text{(3)} \\
        y_c &= s_c\, x_c                                     && \text{(4)}

    Equation numbers are those of arXiv 1709.01507. The paper writes the two
    fully connected layers without biases; the common implementations have
    them, so they are the default here.

    Args:
        channels (int): channels of the input.
        reduction (int): the hidden width is ``channels // reduction``.
        bias (bool): biases in both fully connected layers, initialised to 0.
        hidden_channels (int, optional): the hidden width itself; ``reduction``
            is then not used.
        min_hidden (int, optional): the hidden width at least, for layers of few channels.
        gate (str): ``'sigmoid'``, or ``'hard_sigmoid'`` for the
            ``relu6(v + 3) / 6`` of MobileNetV3.
        identity_init (bool): start as the identity: the gate is doubled and its
            last layer starts from 0, so every weight starts at 1.
        squeeze (bool): False leaves the averaging out and gives every position its own gate:
            the paper's NoSqueeze (Table 16), an ablation at a hundred times the cost.

    Weights start from Uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Shape:
        ``[N, channels, H, W]`` in, the same out.

    Raises:
        ValueError: for an argument out of range, a ``reduction`` that leaves no
            hidden channel, an unknown ``gate``, or an input that is not
            ``[N, channels, H, W]``.
    """

    TORCH_KEYS = {"authors": {"fc1": "fc.0", "fc2": "fc.2"}, "timm": {}}

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        bias: bool = True,
        hidden_channels: int | None = None,
        gate: str = "sigmoid",
        identity_init: bool = False,
        squeeze: bool = True,
        min_hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction, hidden_channels, min_hidden)
        check_choice("gate", gate, GATES)
        self.channels = channels
        # The pooling layer, not mean([2, 3]): the latter is a slow reduction when deployed.
        self.avg_pool = nn.AdaptiveAvgPool2D(1) if squeeze else nn.Identity()
        self.fc1 = pointwise(channels, hidden, bias)
        self.relu = nn.ReLU()
        self.fc2 = pointwise(hidden, channels, bias)
        self.gate_name = gate
        self.identity_init = identity_init
        if identity_init:
            start_from_zero(self.fc2.weight, self.fc2.bias)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights, ``[N, channels, 1, 1]``, each in [0, 1], or [0, 2] with ``identity_init``.

        Without ``squeeze`` they are those of every position, ``[N, channels, H, W]``.
        """
        gate = GATES[self.gate_name](self.fc2(self.relu(self.fc1(self.avg_pool(x)))))
        return 2.0 * gate if self.identity_init else gate
