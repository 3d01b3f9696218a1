"""scSE: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

from paddle_attention import scSE

from ._case import CHANNELS, PIXELS, Case
from ._numpy import conv, pool, relu, sigmoid


def scse(x, p, training=False, join=np.maximum, gate=sigmoid):
    """arXiv 1803.02579, equations 2 and 3."""
    channel = gate(conv(relu(conv(pool(x), p, "fc1")), p, "fc2"))
    return join(x * channel, x * gate(conv(x, p, "conv")))


CASES = [
    Case(
        "scSE",
        scse,
        applied=lambda x, m: np.maximum(x * m["channel"], x * m["spatial"]),
        maps={"channel": CHANNELS, "spatial": PIXELS},
        start="gate",
    ),
    Case("scSE", partial(scse, join=np.add), {"reduction": 4, "aggregate": "add"}),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("paddle.maximum(x * channel, x * spatial)", "x * paddle.maximum(channel, spatial)"),
    ("F.relu(self.fc1", "(self.fc1"),
    ("return x * channel + x * spatial", "return x * channel * spatial"),
]


class TestScSE(shared_tests(CASES)):
    """The tests that every mechanism has."""


def test_narrow_layers_have_a_least_width():
    """channels // reduction would be 0."""
    layer = scSE(8, 16, min_hidden=3)
    widths = {value.shape[0] for key, value in layer.state_dict().items() if key.endswith("fc1.weight")}
    assert widths == {3}
