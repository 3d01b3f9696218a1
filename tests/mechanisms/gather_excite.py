"""GatherExcite: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import CHANNELS, Case, scaled
from ._numpy import batch_norm, conv, pool, relu, sigmoid


def gather_excite(x, p, training=False, extent=0, mlp=True, params=0, gate=sigmoid):
    """arXiv 1810.12348, equation 1; ``params`` is the number of gathering convolutions."""
    n, c, h, w = x.shape
    if params:
        z = x
        for i in range(1, params + 1):
            whole = extent == 0
            z = conv(z, p, f"gather.conv{i}", 1 if whole else 2, 0 if whole else 1, groups=c)
            z = batch_norm(z, p, f"gather.norm{i}", training)
            z = relu(z) if i < params or (whole and mlp) else z
    elif extent == 0:
        z = pool(x)
    else:
        rows, columns = -(-h // extent), -(-w // extent)
        z = np.zeros((n, c, rows, columns))
        for i in range(rows):
            for j in range(columns):
                a, b = i * extent, j * extent
                window = x[:, :, max(a - extent + 1, 0) : a + extent, max(b - extent + 1, 0) : b + extent]
                z[:, :, i, j] = window.mean((2, 3))
    if mlp:
        z = conv(relu(conv(z, p, "mlp.fc1")), p, "mlp.fc2")
    if extent:
        rows = np.arange(h) * z.shape[2] // h
        columns = np.arange(w) * z.shape[3] // w
        z = z[:, :, rows][..., columns]
    return x * gate(z)


CASES = [
    Case("GatherExcite", gather_excite, {"reduction": 4}, applied=scaled, maps=CHANNELS, start="gate"),
    Case(
        "GatherExcite",
        partial(gather_excite, extent=2, mlp=False),
        {"extent": 2, "use_mlp": False},
        (2, 3, 7, 4),
    ),
    Case(
        "GatherExcite",
        partial(gather_excite, extent=4, params=2),
        {"extent": 4, "extra_params": True, "reduction": 2},
        (2, 4, 9, 6),
    ),
    Case(
        "GatherExcite",
        partial(gather_excite, params=1, mlp=False),
        {"extra_params": True, "feat_size": [5, 7], "use_mlp": False},
        (3, 4, 5, 7),
        sizes=((5, 7),),
    ),
    Case(
        "GatherExcite",
        partial(gather_excite, params=1),
        {"extra_params": True, "feat_size": [5, 7], "reduction": 2},
        (3, 4, 5, 7),
        sizes=((5, 7),),
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.GatherExcite(32, extent=3), "extent must be 0 or a power of 2 from 2, but got 3"),
    (lambda: pa.GatherExcite(32, extra_params=True), r"give feat_size=\(H, W\)"),
    (
        lambda: pa.GatherExcite(32, extra_params=True, feat_size=(4, 4))(paddle.zeros([1, 32, 4, 5])),
        r"built for feat_size=\(4, 4\), but got an input of shape \[1, 32, 4, 5\]",
    ),
    (lambda: pa.GatherExcite(32, use_mlp=False, identity_init=True), "it has no parameter"),
    (lambda: pa.GatherExcite(32, extra_params=True, feat_size=7), r"feat_size must be \(H, W\), but got 7"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "                if use_mlp:\n                    self.gather",
        "                if not use_mlp:\n                    self.gather",
    ),
    ("size = 2 * self.extent - 1", "size = 2 * self.extent + 1"),
    ("exclusive=True", "exclusive=False"),
    ("if i < steps:", "if i <= steps:"),
]


class TestGatherExcite(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""
