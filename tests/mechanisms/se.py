"""SE: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

import paddle_attention as pa
from paddle_attention import SEBlock

from ._case import CHANNELS, GATED, Case, scaled
from ._numpy import fully_connected, hard_sigmoid, sigmoid


def se(x, p, training=False, gate=sigmoid, squeeze=True):
    """arXiv 1709.01507, equations 2 to 4; without the squeeze, every position on its own (Table 16)."""
    if not squeeze:
        columns = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
        s = gate(fully_connected(np.maximum(fully_connected(columns, p, "fc1"), 0), p, "fc2"))
        n, c, h, w = x.shape
        return x * s.reshape(n, h, w, c).transpose(0, 3, 1, 2)
    z = x.mean((2, 3))
    s = gate(fully_connected(np.maximum(fully_connected(z, p, "fc1"), 0), p, "fc2"))
    return x * s[:, :, None, None]


CASES = [
    Case("SE", se, {"reduction": 4}, applied=scaled, maps=CHANNELS, start="gate"),
    Case("SE", se, {"reduction": 8, "bias": False}, (3, 8, 6, 4)),
    Case("SE", se, {"hidden_channels": 3}, (1, 5, 4, 4)),
    Case("SE", se, {"min_hidden": 2}, (1, 5, 4, 4)),
    Case("SE", partial(se, gate=hard_sigmoid), {"reduction": 2, "gate": "hard_sigmoid"}),
    Case("SE", GATED(se), {"reduction": 2, "identity_init": True}),
    Case("SE", partial(se, squeeze=False), {"reduction": 2, "squeeze": False}),
]


BAD_ARGUMENTS = [
    (lambda: pa.SEBlock(8, reduction=16), "channels=8 // reduction=16 leaves no hidden channel"),
    (lambda: pa.SEBlock(8, reduction=16), "choose reduction <= 8, or min_hidden=8"),
    (lambda: pa.SEBlock(8, min_hidden=0), "min_hidden must be a positive integer, but got 0"),
    (lambda: pa.SEBlock(8, reduction=0), "reduction must be a positive integer, but got 0"),
    (lambda: pa.SEBlock(8, hidden_channels=-1), "hidden_channels must be a positive integer, but got -1"),
    (lambda: pa.SEBlock(8, reduction=2, gate="tanh"), r"\['hard_sigmoid', 'sigmoid'\], but got 'tanh'"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("self.fc2(self.relu(self.fc1(", "self.fc2((self.fc1("),
    ("_base.py", "return x * self.gate(x)", "return x + self.gate(x)"),
    ("_ops.py", "F.relu6(v + 3.0) / 6.0", "F.relu6(v + 3.0) / 6.01"),
    ("nn.AdaptiveAvgPool2D(1) if squeeze else nn.Identity()", "nn.AdaptiveAvgPool2D(1)"),
]


class TestSE(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_initial_weights():
    """Uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) and zero biases, as in the fluid SE block."""
    layer = SEBlock(400, reduction=4)
    for fc, fan_in in ((layer.fc1, 400), (layer.fc2, 100)):
        weight, bound = fc.weight.numpy(), fan_in**-0.5
        assert abs(weight).max() <= bound
        assert abs(weight).max() > 0.99 * bound
        assert abs(weight.std() - bound / 3**0.5) < 0.02 * bound
        assert not fc.bias.numpy().any()
    assert SEBlock(400, bias=False).fc1.bias is None
