"""python tests/mutations.py [NAME ...]: plant faults in the mechanisms; the tests must notice each.

Works on a copy of the project. Prints the faults that survived, and exits with 1 if there are any.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# mechanism: file, then faults as (what is there, what is planted)
FAULTS = {
    "SE": (
        "se.py",
        ("self.fc2(self.relu(self.fc1(", "self.fc2((self.fc1("),
        ("return x * self.gate(x)", "return x + self.gate(x)"),
        ("F.relu6(v + 3.0) / 6.0", "F.relu6(v + 3.0) / 6.01"),
        ("nn.AdaptiveAvgPool2D(1) if squeeze else nn.Identity()", "nn.AdaptiveAvgPool2D(1)"),
    ),
    "ChannelAttention": (
        "channel_attention.py",
        ("branch if logits is None else logits + branch", "branch"),
        ("self.fc2(self.relu(self.fc1(self._pool", "self.fc2((self.fc1(self._pool"),
        ("return F.adaptive_max_pool2d(x, 1)", "return F.adaptive_max_pool2d(x, 1) * 0.99"),
    ),
    "SpatialAttention": (
        "spatial_attention.py",
        (
            "maps = [max_over_channels(x), paddle.mean(x, axis=1, keepdim=True)]",
            "maps = [paddle.mean(x, axis=1, keepdim=True), max_over_channels(x)]",
        ),
        (
            "paddle.mean(x, axis=1, keepdim=True)]",
            "paddle.mean(x, axis=1, keepdim=True).mean() + 0 * x[:, :1]]",
        ),
        ("momentum=0.99, epsilon=1e-5", "momentum=0.99, epsilon=1e-3"),
    ),
    "CBAM": (
        "cbam.py",
        ("x = self.channel_gate(x)\n        return x if", "y = self.channel_gate(x)\n        return y if"),
        ("self.spatial_gate.gate(x * maps", "self.spatial_gate.conv(x[:, :2] * maps"),
        ("None if no_spatial else SpatialAttention", "None if not no_spatial else SpatialAttention"),
    ),
    "BAM": (
        "bam.py",
        ('channel * spatial if self.combine == "mul"', 'channel * spatial if self.combine == "add"'),
        ("1.0 + F.sigmoid(channel", "F.sigmoid(channel"),
        ("dilation=dilation_val", "dilation=max(dilation_val - 1, 1)"),
    ),
    "ECA": (
        "eca.py",
        ("padding=(k_size // 2, 0)", "padding=(k_size // 2, 0), padding_mode='replicate'"),
        ("(math.log2(channels) + b) / gamma", "(math.log2(channels) - b) / gamma"),
        ("return x * self.gate(x)", "return x + x * self.gate(x)"),
    ),
    "SGE": (
        "sge.py",
        (" * unbiased(wide)", ""),
        ("(deviation + 1e-5)", "paddle.sqrt(variance + 1e-5)"),
        ("centred = similarity - self.avg_pool(similarity)", "centred = similarity"),
    ),
    "SKConv": (
        "sk_conv.py",
        ("F.softmax(logits, axis=1)", "F.softmax(logits, axis=2)"),
        ("pooled = pooled + self.avg_pool(other)", "pooled = pooled"),
        ("weighted_sum(maps, self._select(maps))", "weighted_sum(maps, self._select(maps) ** 2)"),
    ),
    "NonLocal2D": (
        "non_local_2d.py",
        (
            "paddle.matmul(weight[:, :half], query), paddle.matmul(weight[:, half:], key)",
            "paddle.matmul(weight[:, half:], query), paddle.matmul(weight[:, :half], key)",
        ),
        ("return x + (y if", "return (y if"),
        (
            "value = self._sub_sample(self.g(x))",
            "value = self._sub_sample(paddle.nn.functional.relu(self.g(x)))",
        ),
    ),
    "NonLocal2D lean": (
        "_chunked_attention.py",
        ("context = matmul_transposed(value, key / positions)", "context = matmul_transposed(value, key)"),
        ("value = value / positions", "value = value"),
        ("argsort(b, axis=1, descending=True)", "argsort(b, axis=1, descending=False)"),
    ),
    "PAM lean": (
        "_chunked_attention.py",
        (
            "energy = weights * (moved - (moved * weights).sum(axis=-1, keepdim=True))",
            "energy = weights * moved",
        ),
        (
            "return F.softmax(energy * scale if scale != 1.0 else energy, axis=-1)",
            "return F.softmax(energy, axis=-1)",
        ),
        (
            "value_gradient = to_value if value_gradient is None else value_gradient + to_value",
            "value_gradient = to_value",
        ),
    ),
    "GCBlock": (
        "gc_block.py",
        ("F.softmax(mask.flatten(2), axis=-1)", "F.sigmoid(mask.flatten(2))"),
        ("y = y + self.channel_add_conv(context)", "y = y - self.channel_add_conv(context)"),
        ("self.conv2(F.relu(hidden)", "self.conv2((hidden)"),
    ),
    "SimplifiedNonLocal": (
        "simplified_non_local.py",
        ("return x + self.conv_value(", "return self.conv_value("),
        ("widen(x) * _position_weights(widen(mask))", "widen(x)"),
        (
            "self.conv_mask = conv(channels, 1)\n        self.conv_value = conv(channels, channels, bias=False, zero=True)",
            "self.conv_mask = conv(channels, 1)\n        self.conv_value = conv(channels, channels, bias=False)",
        ),
    ),
    "PSAModule": (
        "psa_module.py",
        (
            "[0, 1, 3, 2, 4] if psa_type == 0 else [0, 2, 4, 1, 3]",
            "[0, 2, 4, 1, 3] if psa_type == 0 else [0, 1, 3, 2, 4]",
        ),
        ("weights = F.softmax(weights, axis=-1)", "weights = F.softmax(weights, axis=-2)"),
        ("* (1.0 / self.normalization_factor)", ""),
    ),
    "PSAModule skew": (
        "_ops.py",
        ("(width - 1) // 2 + 1 - size", "width // 2 + 1 - size"),
        ("mask = mask * covered.astype(mask.dtype)", "mask = mask"),
        ("[size - 1], [2 * size * size - 1]", "[size], [2 * size * size]"),
    ),
    "PAM": (
        "pam.py",
        (
            "attend(*(t.flatten(2) for t in maps))",
            "attend(*(t.flatten(2) for t in (maps[1], maps[0], maps[2])))",
        ),
        (
            'return self.gamma * unflatten_like(y, x) + x\n\n    def extra_repr(self):\n        return f"channels={self.channels}"\n\n\nclass CAM',
            'return self.gamma * unflatten_like(y, x)\n\n    def extra_repr(self):\n        return f"channels={self.channels}"\n\n\nclass CAM',
        ),
        ("self.query_conv = conv(channels, hidden)", "self.query_conv = conv(channels, hidden, bias=False)"),
    ),
    "CAM": (
        "cam.py",
        ("F.softmax(-matmul_transposed", "F.softmax(matmul_transposed"),
        (
            "y = paddle.matmul(weights, widen(x).flatten(2))",
            "y = paddle.matmul(weights, widen(x).flatten(2), transpose_x=True)",
        ),
        ("flat, flat), axis=-1)", "flat, flat), axis=-2)"),
    ),
    "DAHead": (
        "da_module.py",
        (
            "return self.conv8(position + channel), self.conv6(position), self.conv7(channel)",
            "return self.conv8(position + channel), self.conv6(channel), self.conv7(position)",
        ),
        (
            "return self.conv8(position + channel), self.conv6(position), self.conv7(channel)",
            "return self.conv8(position), self.conv6(position), self.conv7(channel)",
        ),
        ("self.conv51(self.sa(self.conv5a(x)))", "self.conv51(self.sa(self.conv5c(x)))"),
    ),
    "DAModule": (
        "da_module.py",
        ("return self.conv8(position + channel)\n", "return self.conv8(position)\n"),
        ("self.conv52(self.sc(self.conv5c(x)))", "self.conv52(self.sc(self.conv5a(x)))"),
        ("inter = channels // 4", "inter = channels // 8"),
    ),
    "BaseOC": (
        "base_oc.py",
        ("paddle.concat([context, x], axis=1)", "paddle.concat([x, context], axis=1)"),
        ("value.flatten(2), self.key_channels**-0.5)", "value.flatten(2))"),
        ("context = context + stage(x)", "context = stage(x)"),
    ),
    "PyramidOC": (
        "object_context_block.py",
        (
            "[self.up_dr(x)] + [stage(x) for stage in self.stages]",
            "[stage(x) for stage in self.stages] + [self.up_dr(x)]",
        ),
        ("((self.partition - 1) * step, length)", "(length - step, length)"),
        (
            "paddle.concat(row, axis=3) for row in rows], axis=2",
            "paddle.concat(row[::-1], axis=3) for row in rows], axis=2",
        ),
    ),
    "ASPOC": (
        "object_context_block.py",
        ("branches = (self.context, self.conv2,", "branches = (self.conv2, self.context,"),
        ("context = self.W(context)", "context = F.relu(self.W(context))"),
        ("size_of(x, (2, 3)), align_corners=True)", "size_of(x, (2, 3)), align_corners=False)"),
    ),
    "OC statistics": (
        "object_context_block.py",
        ("_TWICE = 1.0 - (1.0 - 0.1) ** 2", "_TWICE = 0.1"),
        ("self.pool(x)\n        key, value", "x\n        key, value"),
        (
            "self.W = conv(value_channels, out_channels, zero=True)",
            "self.W = conv(value_channels, out_channels)",
        ),
    ),
    "BaseOC ABN": (
        "_abn.py",
        ("F.leaky_relu(y, 0.01)", "F.relu(y)"),
        (
            "paddle.abs(self.weight) + 1e-5).reshape(shape) + self.bias.reshape(shape)\n        if",
            "self.weight + 1e-5).reshape(shape) + self.bias.reshape(shape)\n        if",
        ),
        ("self.bn = batch_norm(channels, momentum)", "self.bn = batch_norm(channels, 0.1)"),
    ),
    "CrissCrossAttention": (
        "criss_cross_attention.py",
        ('paddle.full_like(column, float("-inf"))', "column"),
        ("down.transpose([0, 2, 1, 3]) + along", "along"),
        (
            "weights = F.softmax(paddle.concat([column, row], axis=3), axis=3)\n",
            "weights = paddle.concat([F.softmax(column, axis=3), F.softmax(row, axis=3)], axis=3)\n",
        ),
    ),
    "RCCA": (
        "rcca.py",
        ("paddle.concat([x, self.convb(y)], axis=1)", "paddle.concat([self.convb(y), x], axis=1)"),
        (
            "for _ in range(self.recurrence):\n            y = self.cca(y)\n        return",
            "y = self.cca(y)\n        return",
        ),
        ("self.convb = unit(inter, inter)", "self.convb = conv(inter, inter)"),
    ),
    "EMAU": (
        "emau.py",
        ("transpose_x=True), axis=2)", "transpose_x=True), axis=1)"),
        ("mu = self._unit_length(mu)\n        return", "return"),
        (
            "self.momentum * self.mu + (1.0 - self.momentum) * mean",
            "(1.0 - self.momentum) * self.mu + self.momentum * mean",
        ),
    ),
    "EMAU processes": (
        "emau.py",
        ("paddle.distributed.all_reduce(mean)", "pass"),
        ("mean = mean / paddle.distributed.get_world_size()", "mean = mean"),
        ("if self.training:", "if True:"),
    ),
    "SqueezeAttention": (
        "squeeze_attention.py",
        ("return attention * main + attention", "return attention * main + main"),
        ("align_corners=False)", "align_corners=True)"),
        ("ceil_mode=True, exclusive=True", "ceil_mode=False"),
    ),
    "SelfAttention2D": (
        "self_attention_2d.py",
        ("return x + self.out_conv", "return self.out_conv"),
        (
            "skew(paddle.matmul(flat, widen(self.rel_w)), width)",
            "skew(paddle.matmul(flat, widen(self.rel_h)), width)",
        ),
        ("energy = energy + (rows + columns)", "energy = energy + (rows - columns)"),
    ),
    "masks": (
        "multi_head_attention.py",
        ('dtype="int32"), diagonal=1)', 'dtype="int32"), diagonal=0)'),
        ("blocked.append(key_padding_mask", "blocked.append(~key_padding_mask"),
        (
            "paddle.stack([paddle.sin(angle), paddle.cos(angle)], axis=2)",
            "paddle.stack([paddle.cos(angle), paddle.sin(angle)], axis=2)",
        ),
    ),
    "torch attention": (
        "multi_head_attention.py",
        ('enumerate("qkv")\n                for leaf', 'enumerate("kqv")\n                for leaf'),
        ("        if mask.dtype == paddle.bool:", "        if mask.dtype != paddle.bool:"),
        ('"cross_attn": "multihead_attn"', '"cross_attn": "cross_attn"'),
    ),
    "HardAttention": (
        "hard_attention.py",
        ("rank = paddle.argsort(order, axis=1)", "rank = order"),
        ("mask = mask + (soft - soft.detach())", "mask = mask + (scores - scores.detach())"),
        ("math.ceil(self.k * candidates - 1e-6)", "math.floor(self.k * candidates)"),
    ),
    "score function": (
        "hard_attention.py",
        (
            "paddle.flip(paddle.logcumsumexp(paddle.flip(drawn, axis=[1]), axis=1), axis=[1])",
            "paddle.logcumsumexp(drawn, axis=1)",
        ),
        ("- paddle.log(-paddle.log(noise))", "+ paddle.log(-paddle.log(noise))"),
        ("return -((reward", "return ((reward"),
    ),
    "SpatialTransformer": (
        "spatial_transformer.py",
        ("across * columns[:, 0] + down * columns[:, 1]", "across * columns[:, 1] + down * columns[:, 0]"),
        ("(2.0 * steps + 1.0) / size - 1.0", "2.0 * steps / size - 1.0"),
        ("grid, align_corners=self.align_corners", "grid, align_corners=not self.align_corners"),
    ),
    "ScaleAttention": (
        "scale_attention.py",
        ("F.softmax(widen(logits), axis=1)", "F.sigmoid(widen(logits))"),
        ("self.conv2(F.relu(self.conv1(", "self.conv2((self.conv1("),
        ("part = weights[:, i : i + 1] *", "part = weights[:, :1] *"),
    ),
    "CoordAttention": (
        "coord_attention.py",
        ("return x * columns * rows", "return x * rows"),
        ("y = y * hard_sigmoid(y)", "y = F.relu(y)"),
        ("F.sigmoid(self.conv_w(", "F.sigmoid(self.conv_h("),
    ),
    "SimAM": (
        "simam.py",
        (" * unbiased(wide)", ""),
        ("+ 0.5)", ")"),
        ("variance + self.e_lambda", "variance + 1e-4"),
    ),
    "TripletAttention": (
        "triplet_attention.py",
        ("(1.0 / len(maps))", "(1.0 / 3)"),
        (
            "maps = [max_over(x, axis), paddle.mean(x, axis=axis, keepdim=True)]",
            "maps = [paddle.mean(x, axis=axis, keepdim=True), max_over(x, axis)]",
        ),
        ('"hc": self.hc(x, 3, [0, 3, 2, 1])', '"hc": self.hc(x, 3, [0, 3, 1, 2])'),
    ),
    "scSE": (
        "scse.py",
        ("paddle.maximum(x * channel, x * spatial)", "x * paddle.maximum(channel, spatial)"),
        ("F.relu(self.fc1", "(self.fc1"),
        ("return x * channel + x * spatial", "return x * channel * spatial"),
    ),
    "GatherExcite": (
        "gather_excite.py",
        ("size = 2 * self.extent - 1", "size = 2 * self.extent + 1"),
        ("exclusive=True", "exclusive=False"),
        ("if i < steps:", "if i <= steps:"),
    ),
    "GCT": (
        "gct.py",
        ("1.0 + paddle.tanh", "paddle.tanh"),
        ("(norm * norm).mean(axis=1", "(norm * norm).sum(axis=1"),
        ("paddle.sqrt(self._sum(x * x) + self.epsilon)", "self._sum(x * x)"),
    ),
    "FcaLayer": (
        "fca_layer.py",
        ("wave if frequency == 0 else wave * np.sqrt(2.0)", "wave"),
        ("np.arange(length) + 0.5", "np.arange(length)"),
        ("np.outer(self._wave(u", "np.outer(self._wave(v"),
    ),
    "DoubleAttention": (
        "double_attention.py",
        ("F.softmax(widen(gather).flatten(2), axis=2)", "F.softmax(widen(gather).flatten(2), axis=1)"),
        (
            "F.softmax(widen(distribute).flatten(2), axis=1)",
            "F.softmax(widen(distribute).flatten(2), axis=2)",
        ),
        ("return x + y if self.residual", "return y if self.residual"),
    ),
    "ExternalAttention": (
        "external_attention.py",
        ("F.softmax(energy, axis=2)", "F.softmax(energy, axis=1)"),
        ("weights.sum(axis=1, keepdim=True)", "weights.sum(axis=2, keepdim=True)"),
        (
            "return F.relu(self.conv2(unflatten_like(y, x)) + x)",
            "return F.relu(self.conv2(unflatten_like(y, x))) + x",
        ),
    ),
    "PolarizedSelfAttention": (
        "polarized_self_attention.py",
        (
            "x * self.spatial_gate(x) + x * self.channel_gate(x)",
            "x * self.spatial_gate(x) * self.channel_gate(x)",
        ),
        ("F.softmax(flat, axis=2)", "F.softmax(flat, axis=1)"),
        ("self.conv_up.conv2(F.relu(hidden)", "self.conv_up.conv2((hidden)"),
    ),
    "ShuffleAttention": (
        "shuffle_attention.py",
        (
            "reshape([-1, 2, self.channels // 2, height, width])",
            "reshape([-1, self.channels // 2, 2, height, width])",
        ),
        ("self.cweight * F.adaptive", "self.sweight * F.adaptive"),
        ("first, second = x[:, :half], x[:, half:]", "second, first = x[:, :half], x[:, half:]"),
    ),
    "SplitAttention": (
        "split_attention.py",
        ("weights = F.softmax(logits, axis=1)", "weights = F.softmax(logits, axis=2)"),
        (
            "logits = logits.transpose([0, 2, 1, 3])",
            "logits = logits.reshape([0, self.radix, self.groups, -1])",
        ),
        ("F.relu(self.bn1(self.fc1", "(self.bn1(self.fc1"),
    ),
}


def tests_of(name):
    """The quick tests of a mechanism first, then all that know of it."""
    word = name.split()[0]
    everywhere = ["tests/test_mechanisms.py", "tests/test_torch_weights.py"]
    if word not in ("OC", "DAHead", "ScaleAttention", "masks", "torch", "score"):
        yield [
            "tests/test_layers.py",
            "-k",
            f"{word} and (forward or gradients or start or sizes or maps or statistics)",
        ]
    yield everywhere


def survives(project, name, file, old, new):
    """Plant one fault in a copy; whether all tests pass."""
    path = os.path.join(project, "paddle_attention", "layers", file)
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    if old not in text:
        return f"{name}: {file} no longer holds {old!r}"
    try:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text.replace(old, new))
        for tests in tests_of(name):
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                "-m",
                "not slow",
                *tests,
            ]
            done = subprocess.run(command, cwd=project, capture_output=True, text=True)
            if done.returncode not in (0, 5):
                return None
        return f"{name}: {old!r} -> {new!r} survived"
    finally:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)


def check(name):
    file, *faults = FAULTS[name]
    with tempfile.TemporaryDirectory() as directory:
        project = os.path.join(directory, "project")
        ignore = shutil.ignore_patterns(".git", ".venv*", ".cache", "output", "__pycache__")
        shutil.copytree(ROOT, project, ignore=ignore)
        found = [survives(project, name, file, *fault) for fault in faults]
    survivors = [text for text in found if text]
    print(f"{name}: {len(faults) - len(survivors)} of {len(faults)} noticed", flush=True)
    return survivors


def main(names):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        survivors = [text for found in pool.map(check, names or FAULTS) for text in found]
    faults = sum(len(FAULTS[name]) - 1 for name in names or FAULTS)
    print(f"{faults - len(survivors)} of {faults} faults noticed", *survivors, sep="\n")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
