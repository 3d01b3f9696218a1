"""ExternalAttention: reference, cases, mutants."""

import numpy as np
from layer_tester import shared_tests

from ._case import Case
from ._numpy import batch_norm, conv, flat, relu, softmax


def external(x, p, training=False):
    """arXiv 2105.02358, equations 5 to 8."""
    weights = softmax(np.einsum("kc,ncl->nkl", p["linear_0"], flat(conv(x, p, "conv1"))))
    weights = weights / (1e-9 + weights.sum(1, keepdims=True))
    y = np.einsum("ck,nkl->ncl", p["linear_1"], weights).reshape(x.shape)
    return relu(batch_norm(conv(y, p, "conv2.0"), p, "conv2.1", training) + x)


CASES = [
    Case("ExternalAttention", external, {"k": 5}, weights_of=1, maps="n 5 h w", dead=("conv1.bias",)),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    ("F.softmax(scores, axis=2)", "F.softmax(scores, axis=1)"),
    ("weights.sum(axis=1, keepdim=True)", "weights.sum(axis=2, keepdim=True)"),
    (
        "return F.relu(self.conv2(unflatten_like(y, x)) + x)",
        "return F.relu(self.conv2(unflatten_like(y, x))) + x",
    ),
]


class TestExternalAttention(shared_tests(CASES)):
    """The tests that every mechanism has."""
