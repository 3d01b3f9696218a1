"""PAM: reference, cases, mutants."""

from layer_tester import shared_tests

import paddle_attention as pa

from ._case import AMONG, KEY_BIAS, Case
from ._numpy import attend, conv, flat


def pam(x, p, training=False):
    """arXiv 1809.02983, equations 1 and 2."""
    maps = (flat(conv(x, p, f"{name}_conv")) for name in ("query", "key", "value"))
    return p["gamma"] * attend(*maps).reshape(x.shape) + x


CASES = [
    Case("PAM", pam, weights_of=2, maps=AMONG, start="identity", dead=KEY_BIAS),
    Case("PAM", pam, {"reduction": 2}, (1, 6, 3, 8), dead=KEY_BIAS),
]


BAD_ARGUMENTS = [
    (lambda: pa.PAM(4), "channels=4 // reduction=8 leaves no hidden channel"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("attend(*(t.flatten(2) for t in maps))", "attend(*(t.flatten(2) for t in (maps[1], maps[0], maps[2])))"),
    ("return self.gamma * unflatten_like(y, x) + x", "return self.gamma * unflatten_like(y, x)"),
    ("self.query_conv = conv(channels, hidden)", "self.query_conv = conv(channels, hidden, bias=False)"),
]


class TestPAM(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
