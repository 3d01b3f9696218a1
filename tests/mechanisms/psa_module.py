"""PSAModule: reference, cases, mutants."""

from functools import partial

import numpy as np
import paddle
import pytest
from layer_tester import shared_tests

import paddle_attention as pa

from ._case import AMONG, RESIZED, Case
from ._numpy import batch_norm, conv, flat, relu, resize, softmax


def psa_weights(mask, kind, size, height, width, normalise):
    """Weights ``[N, targets, sources]``, position by position."""
    n = len(mask)
    weights = np.zeros((n, height, width, height, width))
    half = ((size[0] - 1) // 2, (size[1] - 1) // 2)
    for i, j, a, b in np.ndindex(height, width, height, width):
        u, v = a - i + half[0], b - j + half[1]  # where (a, b) lies in the map of (i, j)
        if 0 <= u < size[0] and 0 <= v < size[1]:
            value = mask[:, u * size[1] + v, i, j]
            if kind == "collect":
                weights[:, i, j, a, b] = value
            else:
                weights[:, a, b, i, j] = value
    weights = weights.reshape(n, height * width, height * width)
    return softmax(weights) if normalise else weights


def psa(x, p, training=False, kinds=("collect", "distribute"), size=(5, 5), shrink=1, compact=False, f=1.0):
    """PSANet, equations 4 to 8, with a projection back."""

    def unit(v, name):
        return relu(batch_norm(conv(v, p, f"{name}.0"), p, f"{name}.1", training))

    parts = []
    for kind, suffix in zip(kinds, ("", "_p"), strict=False):
        v = unit(x, f"psa.reduce{suffix}")
        h, w = ((n - 1) // shrink + 1 for n in v.shape[2:])
        v = resize(v, h, w, align_corners=True)
        mask = conv(unit(v, f"psa.attention{suffix}"), p, f"psa.attention{suffix}.3")
        if compact:
            weights = flat(mask) if kind == "distribute" else flat(mask).transpose(0, 2, 1)
            weights = softmax(weights)
        else:
            weights = psa_weights(mask, kind, size, h, w, normalise=True)
        parts.append(np.einsum("ncs,nts->nct", flat(v), weights).reshape(v.shape) / f)
    y = resize(unit(np.concatenate(parts, 1), "psa.proj"), *x.shape[2:], align_corners=True)
    return unit(np.concatenate([x, y], 1), "project")


CASES = [
    *(
        Case(
            "PSAModule",
            partial(psa, kinds=kinds, size=size, shrink=shrink),
            {"psa_type": psa_type, "mask_h": size[0], "mask_w": size[1], "shrink_factor": shrink},
            (3, 8, 5, 7),
            weights_of=2,
            maps=dict.fromkeys(kinds, "n 12 12" if shrink == 2 else AMONG),
            tolerance=1e-6 if shrink == 2 else 1e-9,
        )
        for psa_type, kinds, size, shrink in (
            (0, ("collect",), (5, 7), 2),
            ("distribute", ("distribute",), (3, 15), 1),
            (2, ("collect", "distribute"), (4, 6), 1),
        )
    ),
    Case(
        "PSAModule",
        partial(psa, size=(3, 4), shrink=2, compact=True, f=12.0),
        {"mask_h": 3, "mask_w": 4, "compact": True, "normalization_factor": None, "mid_channels": 5},
        (3, 8, 5, 7),
        sizes=((5, 7), (6, 8)),
        **RESIZED,
    ),
]


BAD_ARGUMENTS = [
    (lambda: pa.PSA(8, psa_type="both"), "psa_type must be one of .* but got 'both'"),
    (lambda: pa.PSA(8, normalization_factor=0), "normalization_factor must be positive or None, but got 0"),
]


# What is there, and what a mutant has instead; in another file of the layers where one is named.
MUTANTS = [
    (
        "[0, 1, 3, 2, 4] if psa_type == 0 else [0, 2, 4, 1, 3]",
        "[0, 2, 4, 1, 3] if psa_type == 0 else [0, 1, 3, 2, 4]",
    ),
    ("weights = F.softmax(weights, axis=-1)", "weights = F.softmax(weights, axis=-2)"),
    ("* (1.0 / self.normalization_factor)", ""),
    ("_ops.py", "(width - 1) // 2 + 1 - size", "width // 2 + 1 - size"),
    ("_ops.py", "mask = mask * covered.astype(mask.dtype)", "mask = mask"),
    ("_ops.py", "[size - 1], [2 * size * size - 1]", "[size], [2 * size * size]"),
]


class TestPSAModule(shared_tests(CASES, BAD_ARGUMENTS)):
    """The tests that every mechanism has."""


def test_psa_returns_its_input_first():
    layer = pa.PSA(6, 4, mask_h=3, mask_w=5)
    x = paddle.randn([1, 6, 5, 7])
    y = layer(x)
    assert y.shape == [1, 12, 5, 7]
    assert np.array_equal(y[:, :6].numpy(), x.numpy())
    with pytest.raises(ValueError, match="it is 3 x 4; set mask_h=3, mask_w=4"):
        pa.PSA(6, 4, compact=True, mask_h=3, mask_w=5)(x)
