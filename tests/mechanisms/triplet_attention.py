"""TripletAttention: reference, cases, mutants."""

from functools import partial

import numpy as np
from layer_tester import shared_tests

from ._case import PIXELS, Case
from ._numpy import batch_norm, conv, sigmoid


def triplet(x, p, training=False, spatial=True, gate=sigmoid):
    """arXiv 2010.03045, equation 3."""
    total, names = 0.0, {"cw": (0, 2, 1, 3), "hc": (0, 3, 2, 1), "hw": (0, 1, 2, 3)}
    for name, order in list(names.items())[: 3 if spatial else 2]:
        v = x.transpose(order)
        maps = np.stack([v.max(1), v.mean(1)], axis=1)
        logits = conv(maps, p, f"{name}.conv", padding=p[f"{name}.conv.weight"].shape[-1] // 2)
        total = total + (v * gate(batch_norm(logits, p, f"{name}.bn", training))).transpose(order)
    return total / (3 if spatial else 2)


CASES = [
    Case(
        "TripletAttention",
        triplet,
        applied=lambda x, m: x * (m["cw"] + m["hc"] + m["hw"]) / 3,
        maps={"cw": "n c 1 w", "hc": "n c h 1", "hw": PIXELS},
        start="gate",
    ),
    Case(
        "TripletAttention",
        partial(triplet, spatial=False),
        {"no_spatial": True, "kernel_size": 3},
        (2, 4, 6, 5),
    ),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("(1.0 / len(maps))", "(1.0 / 3)"),
    (
        "maps = [max_over(x, axis), paddle.mean(x, axis=axis, keepdim=True)]",
        "maps = [paddle.mean(x, axis=axis, keepdim=True), max_over(x, axis)]",
    ),
    ('"hc": self.hc(x, 3, [0, 3, 2, 1])', '"hc": self.hc(x, 3, [0, 3, 1, 2])'),
]


class TestTripletAttention(shared_tests(CASES)):
    """The tests that every mechanism has."""
