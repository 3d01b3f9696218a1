"""Float64 NumPy pieces of the references, which are written from the papers' equations.

Every reference takes the input ``[N, C, H, W]`` and a dict of float64 arrays under the layer's own
state_dict keys; ``training`` selects batch statistics.
"""

import numpy as np

BN_EPS = 1e-5


def sigmoid(v):
    return 1.0 / (1.0 + np.exp(-v))


def hard_sigmoid(v):
    return np.clip(v + 3.0, 0.0, 6.0) / 6.0


def fully_connected(z, p, name):
    """``[N, in] -> [N, out]`` with the 1x1 convolution ``name`` (its bias is optional)."""
    return z @ p[f"{name}.weight"][:, :, 0, 0].T + p.get(f"{name}.bias", 0.0)


def conv(x, p, name, stride=1, padding=0, dilation=1, groups=1):
    """Convolution ``name`` of ``[N, in, H, W]``; its bias is optional."""
    weight = p[f"{name}.weight"]
    n, channels, height, width = x.shape
    out, _, k_h, k_w = weight.shape
    pad_h, pad_w = (padding, padding) if isinstance(padding, int) else padding
    x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    height = (height + 2 * pad_h - dilation * (k_h - 1) - 1) // stride + 1
    width = (width + 2 * pad_w - dilation * (k_w - 1) - 1) // stride + 1
    y = np.zeros((n, out, height, width))
    for i in range(k_h):
        for j in range(k_w):
            window = x[:, :, i * dilation :, j * dilation :][:, :, ::stride, ::stride][:, :, :height, :width]
            window = window.reshape(n, groups, channels // groups, height, width)
            part = weight[:, :, i, j].reshape(groups, out // groups, channels // groups)
            y += np.einsum("ngchw,goc->ngohw", window, part).reshape(y.shape)
    return y + p[f"{name}.bias"].reshape(-1, 1, 1) if f"{name}.bias" in p else y


def batch_norm(x, p, name, training):
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, variance = p[f"{name}._mean"], p[f"{name}._variance"]
    shape = (1, -1, 1, 1)
    scale = p[f"{name}.weight"] / np.sqrt(variance + BN_EPS)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + p[f"{name}.bias"].reshape(shape)


def relu(v):
    return np.maximum(v, 0)


def softmax(v, axis=-1):
    e = np.exp(v - v.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def pool(x):
    """Global average, ``[N, C, 1, 1]``."""
    return x.mean((2, 3), keepdims=True)


def flat(x):
    """``[N, C, H, W] -> [N, C, H * W]``."""
    return x.reshape(*x.shape[:2], -1)


def attend(query, key, value, scale=1.0):
    """``[N, D, L], [N, D, M], [N, E, M] -> [N, E, L]``."""
    weights = softmax(scale * np.einsum("ndl,ndm->nlm", query, key))
    return np.einsum("nem,nlm->nel", value, weights)


def layer_norm(v, p, name, eps=1e-5):
    mean, variance = v.mean(-1, keepdims=True), v.var(-1, keepdims=True)
    return (v - mean) / np.sqrt(variance + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def max_pool(x, size):
    """Whole windows only."""
    n, c, h, w = x.shape
    x = x[:, :, : h // size * size, : w // size * size]
    return x.reshape(n, c, h // size, size, w // size, size).max((3, 5))


def resize(x, height, width, align_corners):
    """Bilinear."""

    def along(v, axis, new):
        old = v.shape[axis]
        if align_corners:
            at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
        else:
            at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, None)
        low = np.minimum(at.astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        return v.take(low, axis) * (1 - part) + v.take(high, axis) * part

    return along(along(x, 2, height), 3, width)


def doubled(gate):
    """The gate of ``identity_init``."""
    return lambda v: 2.0 * gate(v)


def conv_abn(x, p, name, training, abs_gamma=False, **options):
    x = conv(x, p, f"{name}.0", **options)
    if abs_gamma:
        p = {
            "bn._mean": p[f"{name}.1.bn._mean"],
            "bn._variance": p[f"{name}.1.bn._variance"],
            "bn.weight": np.abs(p[f"{name}.1.weight"]) + 1e-5,
            "bn.bias": p[f"{name}.1.bias"],
        }
        x = batch_norm(x, p, "bn", training)
    else:
        x = batch_norm(x, p, f"{name}.1.bn", training)
    return np.where(x > 0, x, 0.01 * x)
