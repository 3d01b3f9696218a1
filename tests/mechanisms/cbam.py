"""CBAM: reference, cases, mutants."""

from functools import partial

from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, PIXELS, Case, scaled
from .channel_attention import channel_attention
from .spatial_attention import spatial_attention


def cbam(x, p, training=False, pools=("avg", "max"), spatial=True, bn=True):
    """arXiv 1807.06521, equation 1."""
    x = channel_attention(x, p, training, pools, "channel_gate.")
    return spatial_attention(x, p, training, bn, "spatial_gate.") if spatial else x


CASES = [
    Case(
        "CBAM",
        cbam,
        {"reduction": 4},
        applied=scaled,
        maps={"channel": CHANNELS, "spatial": PIXELS},
        start="gate",
    ),
    Case("CBAM", partial(cbam, bn=False), {"reduction": 2, "spatial_bn": False}, (1, 4, 3, 8)),
    Case("CBAM", partial(cbam, spatial=False), {"reduction": 2, "no_spatial": True}),
    Case(
        "CBAM",
        partial(cbam, pools=("avg",)),
        {"reduction": 2, "pool_types": "avg", "kernel_size": 5},
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.CBAM(8), "channels=8 // reduction=16"),
    (lambda: pa.CBAM(16, kernel_size=0), "kernel_size must be a positive integer, but got 0"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("x = self.channel_gate(x)\n        return x if", "y = self.channel_gate(x)\n        return y if"),
    ("self.spatial_gate.gate(x * maps", "self.spatial_gate.conv(x[:, :2] * maps"),
    ("if no_spatial\n", "if not no_spatial\n"),
]


class TestCBAM(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_narrow_layers_have_a_least_width():
    """channels // reduction would be 0."""
    layer = pa.CBAM(8, min_hidden=3)
    widths = {value.shape[0] for key, value in layer.state_dict().items() if key.endswith("fc1.weight")}
    assert widths == {3}
