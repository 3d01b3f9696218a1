"""What the cases of several mechanisms share."""

from functools import partial

import numpy as np
import paddle
from layer_tester import Case

from ._numpy import doubled, sigmoid

__all__ = [
    "AMONG",
    "CHANNELS",
    "EVERY",
    "GATED",
    "KEY_BIAS",
    "PIXELS",
    "RESIZED",
    "TWO",
    "Case",
    "gradients",
    "randomise",
    "scaled",
]

GATED = partial(partial, gate=doubled(sigmoid))


CHANNELS = "n c 1 1"
PIXELS = "n 1 h w"
EVERY = "n c h w"
AMONG = "n l l"  # positions among positions; l is h * w


# The key's bias adds the same to all attention scores of a query, which the softmax does not see.
KEY_BIAS = ("key_conv.bias",)


def scaled(x, maps):
    """The input times every map."""
    for gate in maps.values() if isinstance(maps, dict) else [maps]:
        x = x * gate
    return x


RESIZED = {"tolerance": 1e-6}


TWO = ((2, 2), (2, 9), (6, 4))  # the smallest maps where a 2 x 2 window must fit


def randomise(layer, scale=0.5, seed=0):
    random = np.random.RandomState(seed)
    for key, value in layer.state_dict().items():
        new = random.standard_normal(value.shape) * scale
        value.set_value(
            (np.abs(new) + 0.5 if key.endswith("_variance") else new).astype(str(value.dtype)[7:])
        )
    return layer


def gradients(function, *arrays, dtype="float64"):
    tensors = [paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays]
    y = function(*tensors)
    weight = np.random.RandomState(9).standard_normal(y.shape).astype(dtype)
    (y * paddle.to_tensor(weight)).sum().backward()
    return [y.numpy(), *(t.grad.numpy() for t in tensors)]
