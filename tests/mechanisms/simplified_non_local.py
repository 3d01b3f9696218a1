"""SimplifiedNonLocal: reference, cases, mutants."""

from layer_tester import shared_tests

from ._case import PIXELS, Case
from ._numpy import fully_connected
from .gc_block import attention_pool


def simplified_non_local(x, p, training=False):
    """arXiv 1904.11492, equation 4."""
    return x + fully_connected(attention_pool(x, p), p, "conv_value")[:, :, None, None]


CASES = [
    Case(
        "SimplifiedNonLocal",
        simplified_non_local,
        maps=PIXELS,
        start="identity",
        dead=("conv_mask.bias",),
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("return x + self.conv_value(", "return self.conv_value("),
    ("gc_block.py", "widen(x) * position_weights(widen(mask))", "widen(x)"),
    (
        "self.conv_mask = conv(channels, 1)\n        self.conv_value = conv(channels, channels, bias=False, zero=True)",
        "self.conv_mask = conv(channels, 1)\n        self.conv_value = conv(channels, channels, bias=False)",
    ),
]


class TestSimplifiedNonLocal(shared_tests(CASES)):
    """The tests that every mechanism has."""
