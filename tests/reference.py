"""Float64 NumPy references, written from the papers' equations.

Every function takes the input ``[N, C, H, W]`` and a dict of float64 arrays
under the layer's own state_dict keys. ``training`` selects batch statistics.
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


def convolve(x, weight):
    """Same-size convolution of ``[N, in, H, W]`` with an odd kernel."""
    k = weight.shape[-1]
    _, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((x.shape[0], weight.shape[0], height, width))
    for i in range(k):
        for j in range(k):
            window = padded[:, :, i : i + height, j : j + width]
            out += np.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
    return out


def batch_norm(x, p, name, training):
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, variance = p[f"{name}._mean"], p[f"{name}._variance"]
    shape = (1, -1, 1, 1)
    scale = p[f"{name}.weight"] / np.sqrt(variance + BN_EPS)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + p[f"{name}.bias"].reshape(shape)


def se(x, p, training=False, gate=sigmoid):
    """arXiv 1709.01507, equations 2 to 4."""
    z = x.mean((2, 3))
    s = gate(fully_connected(np.maximum(fully_connected(z, p, "fc1"), 0), p, "fc2"))
    return x * s[:, :, None, None]


def channel_attention(x, p, training=False, pools=("avg", "max"), prefix=""):
    """arXiv 1807.06521, equation 2."""
    pooled = {"avg": x.mean((2, 3)), "max": x.max((2, 3))}
    total = 0.0
    for pool in pools:
        hidden = np.maximum(fully_connected(pooled[pool], p, prefix + "fc1"), 0)
        total = total + fully_connected(hidden, p, prefix + "fc2")
    return x * sigmoid(total)[:, :, None, None]


def spatial_attention(x, p, training=False, bn=True, prefix=""):
    """arXiv 1807.06521, equation 3, with the maps in the order [max, mean] of the authors' code."""
    maps = np.stack([x.max(1), x.mean(1)], axis=1)
    logits = convolve(maps, p[prefix + "conv.weight"])
    if bn:
        logits = batch_norm(logits, p, prefix + "bn", training)
    return x * sigmoid(logits)


def cbam(x, p, training=False, pools=("avg", "max"), spatial=True, bn=True):
    """arXiv 1807.06521, equation 1."""
    x = channel_attention(x, p, training, pools, "channel_gate.")
    return spatial_attention(x, p, training, bn, "spatial_gate.") if spatial else x
