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


def se(x, p, training=False, gate=sigmoid, squeeze=True):
    """arXiv 1709.01507, equations 2 to 4; without the squeeze, every position on its own (Table 16)."""
    if not squeeze:
        columns = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
        s = gate(fully_connected(np.maximum(fully_connected(columns, p, "fc1"), 0), p, "fc2"))
        n, c, h, w = x.shape
        return x * s.reshape(n, h, w, c).transpose(0, 3, 1, 2)
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
    logits = conv(maps, p, prefix + "conv", padding=p[prefix + "conv.weight"].shape[-1] // 2)
    if bn:
        logits = batch_norm(logits, p, prefix + "bn", training)
    return x * sigmoid(logits)


def cbam(x, p, training=False, pools=("avg", "max"), spatial=True, bn=True):
    """arXiv 1807.06521, equation 1."""
    x = channel_attention(x, p, training, pools, "channel_gate.")
    return spatial_attention(x, p, training, bn, "spatial_gate.") if spatial else x


# --- pieces ------------------------------------------------------------------------------


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


# --- gates -------------------------------------------------------------------------------


def bam(x, p, training=False, combine=np.multiply, dilation=4):
    """arXiv 1807.06514, equations 1 to 4, joined as in the authors' code."""
    channel = conv(pool(x), p, "channel_att.fc1")
    channel = relu(batch_norm(channel, p, "channel_att.bn1", training))
    channel = conv(channel, p, "channel_att.fc_final")
    spatial = conv(x, p, "spatial_att.conv_reduce")
    spatial = relu(batch_norm(spatial, p, "spatial_att.bn_reduce", training))
    for i in (1, 2):
        spatial = conv(spatial, p, f"spatial_att.conv{i}", padding=dilation, dilation=dilation)
        spatial = relu(batch_norm(spatial, p, f"spatial_att.bn{i}", training))
    spatial = conv(spatial, p, "spatial_att.conv_final")
    return (1.0 + sigmoid(combine(channel, spatial))) * x


def eca(x, p, training=False, gate=sigmoid):
    """arXiv 1910.03151, equation 9."""
    kernel = p["conv.weight"][0, 0, :, 0]
    half = len(kernel) // 2
    z = np.pad(x.mean((2, 3)), ((0, 0), (half, half)))
    c = x.shape[1]
    logits = sum(kernel[j] * z[:, j : j + c] for j in range(len(kernel)))
    return x * gate(logits)[:, :, None, None]


def sge(x, p, training=False, groups=1, gate=sigmoid):
    """arXiv 1905.09646, equations 2 to 6, with the unbiased deviation."""
    n, c, h, w = x.shape
    y = np.zeros_like(x)
    for g in range(groups):
        part = slice(g * c // groups, (g + 1) * c // groups)
        similarity = (x[:, part] * pool(x[:, part])).sum(1).reshape(n, -1)
        centred = similarity - similarity.mean(1, keepdims=True)
        deviation = similarity.std(1, ddof=1, keepdims=True) if h * w > 1 else np.zeros((n, 1))
        logits = centred / (deviation + 1e-5) * p["weight"][0, g, 0, 0] + p["bias"][0, g, 0, 0]
        y[:, part] = x[:, part] * gate(logits).reshape(n, 1, h, w)
    return y


def coord(x, p, training=False, gate=sigmoid):
    """arXiv 2103.02907, equations 4 to 9."""
    h = x.shape[2]
    pooled = np.concatenate([x.mean(3), x.mean(2)], axis=2)[..., None]
    y = batch_norm(conv(pooled, p, "conv1"), p, "bn1", training)
    y = y * hard_sigmoid(y)
    rows = gate(conv(y[:, :, :h], p, "conv_h"))
    columns = gate(conv(y[:, :, h:], p, "conv_w")).transpose(0, 1, 3, 2)
    return x * rows * columns


def simam(x, p, training=False, e_lambda=1e-4):
    """The paper's equation 5."""
    square = (x - pool(x)) ** 2
    variance = square.sum((2, 3), keepdims=True) / max(x.shape[2] * x.shape[3] - 1, 1)
    return x * sigmoid(square / (4 * (variance + e_lambda)) + 0.5)


def triplet(x, p, training=False, spatial=True, gate=sigmoid):
    """arXiv 2010.03045, equation 3."""
    total, names = 0.0, {"cw": (0, 2, 1, 3), "hc": (0, 3, 2, 1), "hw": (0, 1, 2, 3)}
    for name, order in list(names.items())[: 3 if spatial else 2]:
        v = x.transpose(order)
        maps = np.stack([v.max(1), v.mean(1)], axis=1)
        logits = conv(maps, p, f"{name}.conv", padding=p[f"{name}.conv.weight"].shape[-1] // 2)
        total = total + (v * gate(batch_norm(logits, p, f"{name}.bn", training))).transpose(order)
    return total / (3 if spatial else 2)


def scse(x, p, training=False, join=np.maximum, gate=sigmoid):
    """arXiv 1803.02579, equations 2 and 3."""
    channel = gate(conv(relu(conv(pool(x), p, "fc1")), p, "fc2"))
    return join(x * channel, x * gate(conv(x, p, "conv")))


def gather_excite(x, p, training=False, extent=0, mlp=True, params=0, gate=sigmoid):
    """arXiv 1810.12348, equation 1; ``params`` is the number of gathering convolutions."""
    n, c, h, w = x.shape
    if params:
        z = x
        for i in range(1, params + 1):
            whole = extent == 0
            z = conv(z, p, f"gather.conv{i}", 1 if whole else 2, 0 if whole else 1, groups=c)
            z = batch_norm(z, p, f"gather.norm{i}", training)
            z = relu(z) if i < params else z
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


def gct(x, p, training=False, mode="l2", eps=1e-5):
    """arXiv 1909.11519, equations 2 to 5."""
    if mode == "l2":
        s = np.sqrt((x**2).sum((2, 3), keepdims=True) + eps) * p["alpha"]
        s_hat = s / np.sqrt((s**2).mean(1, keepdims=True) + eps)
    else:
        s = np.abs(x).sum((2, 3), keepdims=True) * p["alpha"]
        s_hat = s / (np.abs(s).mean(1, keepdims=True) + eps)
    return x * (1 + np.tanh(p["gamma"] * s_hat + p["beta"]))


def fca(x, p, training=False, frequencies=(), gate=sigmoid):
    """arXiv 2012.11879, equations 6 to 9, on a 7 x 7 grid."""
    n, c, h, w = x.shape
    small = np.zeros((n, c, 7, 7))
    for i in range(7):
        for j in range(7):
            rows, columns = slice(i * h // 7, -(-(i + 1) * h // 7)), slice(j * w // 7, -(-(j + 1) * w // 7))
            small[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    k = np.arange(7)
    z = np.zeros((n, c, 1, 1))
    for i in range(c):
        u, v = frequencies[i * len(frequencies) // c]
        basis = np.outer(np.cos(np.pi * u * (k + 0.5) / 7), np.cos(np.pi * v * (k + 0.5) / 7)) / 7
        basis *= (2**0.5 if u else 1) * (2**0.5 if v else 1)
        z[:, i, 0, 0] = (small[:, i] * basis).sum((1, 2))
    return x * gate(conv(relu(conv(z, p, "fc1")), p, "fc2"))


def shuffle(x, p, training=False, groups=1, scale=1.0):
    """arXiv 2102.00240, equations 1 to 3 and the channel shuffle."""
    c = x.shape[1]
    half = c // (2 * groups)
    parts = []
    for g in range(groups):
        first = x[:, 2 * g * half : (2 * g + 1) * half]
        second = x[:, (2 * g + 1) * half : (2 * g + 2) * half]
        gate = sigmoid(p["cweight"] * pool(first) + p["cbias"])
        normal = (second - pool(second)) / np.sqrt(second.var((2, 3), keepdims=True) + 1e-5)
        normal = normal * p["gn.weight"].reshape(-1, 1, 1) + p["gn.bias"].reshape(-1, 1, 1)
        parts += [scale * gate * first, scale * sigmoid(p["sweight"] * normal + p["sbias"]) * second]
    y = np.concatenate(parts, axis=1)
    order = [i + j * c // 2 for i in range(c // 2) for j in range(2)]
    return y[:, order]


def polarized(x, p, training=False, parallel=True):
    """arXiv 2107.00782, equations 1 to 4."""

    def channel(x):
        weights = softmax(flat(conv(x, p, "conv_q_right")))
        z = np.einsum("ncl,nl->nc", flat(conv(x, p, "conv_v_right")), weights[:, 0])
        if parallel:
            return sigmoid(fully_connected(z, p, "conv_up"))[:, :, None, None]
        hidden = relu(layer_norm(fully_connected(z, p, "conv_up.conv1"), p, "conv_up.norm"))
        return sigmoid(fully_connected(hidden, p, "conv_up.conv2"))[:, :, None, None]

    def spatial(x):
        query, values = conv(x, p, "conv_q_left").mean((2, 3)), flat(conv(x, p, "conv_v_left"))
        if parallel:
            weights = softmax(np.einsum("nc,ncl->nl", query, values))
        else:
            weights = np.einsum("nc,ncl->nl", query, softmax(values))
        return sigmoid(weights).reshape(len(x), 1, *x.shape[2:])

    if parallel:
        return x * channel(x) + x * spatial(x)
    x = x * channel(x)
    return x * spatial(x)


def squeeze_attention(x, p, training=False, main=False, activation=sigmoid, size=2):
    """arXiv 1909.03402, section 3.2."""
    n, c, h, w = x.shape
    rows, columns = -(-h // size), -(-w // size)
    small = np.zeros((n, c, rows, columns))
    for i in range(rows):
        for j in range(columns):
            small[:, :, i, j] = x[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size].mean((2, 3))

    def twice(v, name):
        v = relu(batch_norm(conv(v, p, f"{name}.0", padding=1), p, f"{name}.1", training))
        return batch_norm(conv(v, p, f"{name}.3", padding=1), p, f"{name}.4", training)

    attention = resize(activation(twice(small, "conv_attn")), h, w, align_corners=False)
    return attention * (relu(twice(x, "conv_main")) if main else x) + attention


# --- context -----------------------------------------------------------------------------


def non_local(x, p, training=False, mode="embedded_gaussian", sub_sample=True, bn=True, pool=max_pool):
    """arXiv 1711.07971, equations 1 to 6."""
    small = pool if sub_sample else lambda v, size: v
    value = flat(small(conv(x, p, "g"), 2))
    if mode == "gaussian":
        query, key = flat(x), flat(small(x, 2))
    else:
        query, key = flat(conv(x, p, "theta")), flat(small(conv(x, p, "phi"), 2))
    if mode == "concatenation":
        w = p["concat_project.weight"].reshape(-1)
        a = np.einsum("c,ncl->nl", w[: len(w) // 2], query)
        b = np.einsum("c,ncm->nm", w[len(w) // 2 :], key)
        weights = relu(a[:, :, None] + b[:, None, :]) / key.shape[2]
    else:
        weights = np.einsum("ncl,ncm->nlm", query, key)
        weights = weights / key.shape[2] if mode == "dot_product" else softmax(weights)
    y = np.einsum("ncm,nlm->ncl", value, weights).reshape(len(x), -1, *x.shape[2:])
    y = conv(y, p, "W")
    return x + (batch_norm(y, p, "W_bn", training) if bn else y)


def attention_pool(x, p):
    return np.einsum("ncl,nl->nc", flat(x), softmax(flat(conv(x, p, "conv_mask")))[:, 0])


def gc(x, p, training=False, att=True, fusions=("channel_add",), gate=sigmoid, eps=1e-5):
    """arXiv 1904.11492, equation 5; first multiplied, then added to."""
    context = attention_pool(x, p) if att else x.mean((2, 3))

    def transform(name):
        hidden = relu(layer_norm(fully_connected(context, p, f"{name}.conv1"), p, f"{name}.norm", eps))
        return fully_connected(hidden, p, f"{name}.conv2")[:, :, None, None]

    y = x * gate(transform("channel_mul_conv")) if "channel_mul" in fusions else x
    return y + transform("channel_add_conv") if "channel_add" in fusions else y


def simplified_non_local(x, p, training=False):
    """arXiv 1904.11492, equation 4."""
    return x + fully_connected(attention_pool(x, p), p, "conv_value")[:, :, None, None]


def pam(x, p, training=False):
    """arXiv 1809.02983, equations 1 and 2."""
    maps = (flat(conv(x, p, f"{name}_conv")) for name in ("query", "key", "value"))
    return p["gamma"] * attend(*maps).reshape(x.shape) + x


def cam(x, p, training=False):
    """arXiv 1809.02983, equations 3 and 4, with the maximum of the authors' code."""
    energy = np.einsum("ncl,ndl->ncd", flat(x), flat(x))
    weights = softmax(energy.max(-1, keepdims=True) - energy)
    return p["gamma"] * np.einsum("ncd,ndl->ncl", weights, flat(x)).reshape(x.shape) + x


def _da_branches(x, p, training=False):
    """``(position, channel)`` of arXiv 1809.02983, Figure 2."""

    def unit(v, name):
        return relu(batch_norm(conv(v, p, f"{name}.0", padding=1), p, f"{name}.1", training))

    def under(prefix):
        return {k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}

    position = unit(pam(unit(x, "conv5a"), under("sa.")), "conv51")
    return position, unit(cam(unit(x, "conv5c"), under("sc.")), "conv52")


def da_module(x, p, training=False):
    return conv(sum(_da_branches(x, p, training)), p, "conv8.1")


def da_head(x, p, training=False):
    position, channel = _da_branches(x, p, training)
    pairs = ((position + channel, "conv8"), (position, "conv6"), (channel, "conv7"))
    return [conv(v, p, f"{name}.1") for v, name in pairs]


def _conv_abn(x, p, name, training, abs_gamma=False, **options):
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


def object_context(x, p, training=False, prefix="", scale=1, partition=1, abs_gamma=False):
    """arXiv 1809.00916, equations 1 and 2."""
    small = max_pool(x, scale)
    key = _conv_abn(small, p, f"{prefix}f_key", training, abs_gamma)
    value = conv(small, p, f"{prefix}f_value")
    context = np.zeros_like(value)
    h, w = value.shape[2:]

    def bounds(n):
        step = n // partition
        return [(i * step, n if i == partition - 1 else (i + 1) * step) for i in range(partition)]

    for a, b in bounds(h):
        for c, d in bounds(w):
            k, v = key[:, :, a:b, c:d], value[:, :, a:b, c:d]
            context[:, :, a:b, c:d] = attend(flat(k), flat(k), flat(v), key.shape[1] ** -0.5).reshape(v.shape)
    context = conv(context, p, f"{prefix}W")
    return resize(context, *x.shape[2:], align_corners=True) if scale > 1 else context


def base_oc(x, p, training=False, sizes=(1,), **options):
    """arXiv 1809.00916, section 3.2: [context, features]."""
    context = sum(
        object_context(x, p, training, f"stages.{i}.", scale=s, **options) for i, s in enumerate(sizes)
    )
    return _conv_abn(np.concatenate([context, x], 1), p, "conv_bn_dropout", training, **options)


def pyramid_oc(x, p, training=False, sizes=(1,), **options):
    """arXiv 1809.00916, section 3.2: [features, contexts]."""
    parts = [_conv_abn(x, p, "up_dr", training, **options)]
    parts += [
        object_context(x, p, training, f"stages.{i}.", partition=s, **options) for i, s in enumerate(sizes)
    ]
    return _conv_abn(np.concatenate(parts, 1), p, "conv_bn_dropout", training, **options)


def asp_oc(x, p, training=False, dilations=(12, 24, 36), **options):
    """arXiv 1809.00916, section 3.2: [context, 1x1, dilated...]."""
    context = _conv_abn(x, p, "context", training, padding=1, **options)
    context = object_context(context, p, training, "context.2.stages.0.", scale=2, **options)
    parts = [_conv_abn(context, p, "context.2.conv_bn_dropout", training, **options)]
    parts.append(_conv_abn(x, p, "conv2", training, **options))
    for i, d in enumerate(dilations):
        parts.append(_conv_abn(x, p, f"conv{i + 3}", training, padding=d, dilation=d, **options))
    return _conv_abn(np.concatenate(parts, 1), p, "conv_bn_dropout", training, **options)


def criss_cross(x, p, training=False, prefix=""):
    """arXiv 1811.11721, equations 1 and 2, position by position."""
    query, key, value = (conv(x, p, f"{prefix}{name}_conv") for name in ("query", "key", "value"))
    h, w = x.shape[2:]
    y = np.zeros_like(x)
    for i in range(h):
        for j in range(w):
            others = [k for k in range(h) if k != i]
            keys = np.concatenate([key[:, :, others, j], key[:, :, i, :]], axis=2)
            values = np.concatenate([value[:, :, others, j], value[:, :, i, :]], axis=2)
            y[:, :, i, j] = attend(query[:, :, i, j, None], keys, values)[:, :, 0]
    return p[f"{prefix}gamma"] * y + x


def rcca(x, p, training=False, recurrence=2, **options):
    """arXiv 1811.11721, section 3.3."""
    y = _conv_abn(x, p, "conva", training, padding=1, **options)
    for _ in range(recurrence):
        y = criss_cross(y, p, training, "cca.")
    y = _conv_abn(y, p, "convb", training, padding=1, **options)
    return _conv_abn(np.concatenate([x, y], 1), p, "bottleneck", training, padding=1, **options)


def expectation_maximisation(x, p, stages=3):
    """arXiv 1907.13426, equations 7 to 9: bases and rebuilt features."""
    features = flat(conv(x, p, "conv1"))
    mu = np.repeat(p["mu"], len(x), axis=0)
    for _ in range(stages):
        z = softmax(np.einsum("ncl,nck->nlk", features, mu))
        mu = np.einsum("ncl,nlk->nck", features, z / (1e-6 + z.sum(1, keepdims=True)))
        mu = mu / (1e-6 + np.sqrt((mu**2).sum(1, keepdims=True)))
    return mu, np.einsum("nck,nlk->ncl", mu, z).reshape(x.shape)


def emau(x, p, training=False, stages=3, rebuilt=None):
    """arXiv 1907.13426; ``rebuilt`` features are a constant of the gradient."""
    rebuilt = expectation_maximisation(x, p, stages)[1] if rebuilt is None else rebuilt
    return relu(batch_norm(conv(relu(rebuilt), p, "conv2.0"), p, "conv2.1", training) + x)


def double_attention(x, p, training=False):
    """arXiv 1810.11579, equations 3 to 6."""
    features = flat(conv(x, p, "conv_a"))
    gather, distribute = softmax(flat(conv(x, p, "conv_b")), 2), softmax(flat(conv(x, p, "conv_v")), 1)
    z = np.einsum("nml,nkl,nkj->nmj", features, gather, distribute)
    return x + conv(z.reshape(len(x), -1, *x.shape[2:]), p, "conv_z")


def external(x, p, training=False):
    """arXiv 2105.02358, equations 5 to 8."""
    weights = softmax(np.einsum("kc,ncl->nkl", p["linear_0"], flat(conv(x, p, "conv1"))))
    weights = weights / (1e-9 + weights.sum(1, keepdims=True))
    y = np.einsum("ck,nkl->ncl", p["linear_1"], weights).reshape(x.shape)
    return relu(batch_norm(conv(y, p, "conv2.0"), p, "conv2.1", training) + x)


def self_attention(x, p, training=False, heads=1, relative=None):
    """arXiv 1706.03762, equation 1, with the relative positions of arXiv 1904.09925."""
    n, c, h, w = x.shape
    d = c // heads
    query, key, value = (flat(conv(x, p, f"{name}_conv")) for name in ("query", "key", "value"))
    y = np.zeros((n, c, h * w))
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        energy = np.einsum("ncl,ncm->nlm", query[:, part], key[:, part])
        if relative:
            for i, (a, b) in enumerate(np.ndindex(h, w)):
                for j, (e, f) in enumerate(np.ndindex(h, w)):
                    for offset, size, name in ((e - a, relative[0], "rel_h"), (f - b, relative[1], "rel_w")):
                        if abs(offset) < size:
                            energy[:, i, j] += query[:, part, i] @ p[name][:, offset + size - 1]
        y[:, part] = np.einsum("ncm,nlm->ncl", value[:, part], softmax(energy / d**0.5))
    return x + conv(y.reshape(x.shape), p, "out_conv")


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


def hard(x, p, training=False, k=0.5, channel=False):
    """The k largest scores, position by position."""
    scores = (conv(pool(x), p, "score") if channel else conv(x, p, "score")).reshape(len(x), -1)
    number = k if isinstance(k, int) else int(np.ceil(k * scores.shape[1]))
    mask = np.zeros_like(scores)
    for row, best in zip(mask, np.argsort(-scores, axis=1)[:, :number], strict=True):
        row[best] = 1.0
    return x * mask.reshape((len(x), -1, 1, 1) if channel else (len(x), 1, *x.shape[2:]))


def spatial_transformer(x, p, training=False, size=4, align_corners=False):
    """arXiv 1506.02025, equations 1 and 5, pixel by pixel."""
    n, _, h, w = x.shape
    hidden = relu(conv(x, p, "conv", padding=1))
    small = np.zeros((*hidden.shape[:2], size, size))
    for i, j in np.ndindex(size, size):
        rows, columns = (
            slice(i * h // size, -(-(i + 1) * h // size)),
            slice(j * w // size, -(-(j + 1) * w // size)),
        )
        small[:, :, i, j] = hidden[:, :, rows, columns].mean((2, 3))
    theta = conv(relu(conv(small, p, "fc1")), p, "fc2").reshape(n, 2, 3)

    def centre(i, length):
        return (2 * i / max(length - 1, 1) if align_corners else (2 * i + 1) / length) - 1

    def pixel(v, length):
        return (v + 1) / 2 * (length - 1) if align_corners else ((v + 1) * length - 1) / 2

    y = np.zeros_like(x)
    for b, i, j in np.ndindex(n, h, w):
        at = theta[b] @ np.array([centre(j, w), centre(i, h), 1.0])
        column, row = pixel(at[0], w), pixel(at[1], h)
        for r in (int(np.floor(row)), int(np.floor(row)) + 1):
            for c in (int(np.floor(column)), int(np.floor(column)) + 1):
                if 0 <= r < h and 0 <= c < w:
                    y[b, :, i, j] += x[b, :, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return y


# --- in the place of a convolution -------------------------------------------------------


def sk(x, p, training=False, dilations=(1, 1), groups=(1, 1), stride=1, split=False):
    """arXiv 1903.06586, equations 1 to 6."""
    inputs = np.split(x, len(groups), axis=1) if split else [x] * len(groups)
    maps = []
    for i, (v, d, g) in enumerate(zip(inputs, dilations, groups, strict=True)):
        y = conv(v, p, f"branches.{i}.conv", stride, d, d, g)
        maps.append(relu(batch_norm(y, p, f"branches.{i}.bn", training)))
    z = relu(batch_norm(conv(pool(sum(maps)), p, "fc1.conv"), p, "fc1.bn", training))
    logits = conv(z, p, "fc2").reshape(len(x), len(maps), -1, 1, 1)
    weights = softmax(logits, axis=1)
    return sum(weights[:, i] * y for i, y in enumerate(maps))


def split_attention(x, p, training=False, radix=2, groups=1, stride=1):
    """arXiv 2004.08955, equations 1 and 2."""
    y = relu(batch_norm(conv(x, p, "conv", stride, 1, groups=groups * radix), p, "bn0", training))
    splits = np.split(y, radix, axis=1)
    z = conv(pool(sum(splits)), p, "fc1", groups=groups)
    logits = conv(relu(batch_norm(z, p, "bn1", training)), p, "fc2", groups=groups)
    if radix == 1:
        return y * sigmoid(logits)
    logits = logits.reshape(len(x), groups, radix, -1).transpose(0, 2, 1, 3)
    weights = softmax(logits, axis=1).reshape(len(x), radix, -1, 1, 1)
    return sum(weights[:, i] * v for i, v in enumerate(splits))
