"""How far an exported network is from the live one, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import nn

_CERTAIN = 1e-3  # a probability
_SIZES = ((64, 64), (96, 128))  # of images, where height and width are free


def relative_error(got: np.ndarray, expected: np.ndarray, activation: str | None = None) -> float:
    """``max|a - b| / max|b|`` of the numbers that go into ``activation``: a softmax is undone up to a constant.

    Arrays of different shapes differ infinitely.
    """
    if got.shape != expected.shape:
        return float("inf")
    got, expected = got.astype("float64"), expected.astype("float64")
    floor = 1e-30
    if activation == "sigmoid":  # beyond, float32 keeps too few digits of what is near to 1
        clipped = [np.clip(p, _CERTAIN, 1 - _CERTAIN) for p in (got, expected)]
        got, expected = (np.log(p / (1 - p)) for p in clipped)
        floor = 0.05
    elif activation == "softmax":  # a softmax of similar logits would hide their errors
        # Paddle's softmax ends at exp(-64), oneDNN's does not: look no further than 1e-20.
        got, expected = (np.log(np.maximum(p, 1e-20)) for p in (got, expected))
        got = got - got.mean(axis=-1, keepdims=True)
        expected = expected - expected.mean(axis=-1, keepdims=True)
        floor = 0.05  # of logits closer than this, float32 probabilities keep too few digits
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), floor))


def images_to_compare(
    image_shape: Sequence[int | None], batch_sizes: Sequence[int], real: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Batch sizes and images ``[n, C, H, W]`` to compare on: random ones, of two sizes where the size is free, and ``real``."""
    random = np.random.RandomState(0)
    channels, *given = image_shape
    sizes = _SIZES if None in given else _SIZES[:1]
    for n in batch_sizes:
        for size in sizes:
            side = [free if fixed is None else fixed for fixed, free in zip(given, size, strict=True)]
            yield n, random.standard_normal([n, channels or 3, *side]).astype("float32")
    if real is not None and len(real):
        yield len(real), np.asarray(real, "float32")


def live_outputs(network: nn.Layer, images: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return np.asarray(network(paddle.to_tensor(images)).numpy())
