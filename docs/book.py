"""What the pages of mechanisms show alike: data flow, shapes, cost. Cells import it."""

import inspect
import json
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import paddle
from IPython.display import HTML, SVG, Image, Markdown

from paddle_attention import AttentionLayer, get_attention, insert_attention
from paddle_attention.analysis import count_complexity, flow_svg, trace_flow
from paddle_attention.networks import BACKBONES

DATA = Path(__file__).parent / "data"
PICTURES = Path(__file__).parent / "pictures"
DOMAINS = {"channel": "通道", "spatial": "空间（位置）", "mixed": "通道与空间", "branch": "分支"}
MEASURED = {
    "latency": "部署，批大小 1",
    "latency_8": "部署，批大小 8",
    "step": "训练一步（64×64）",
    "memory_8": "部署的峰值内存，批大小 8",
}
_TOO_MANY = 60  # operations in one drawing


def facts(name):
    """The paper, and how the two classifications of the introduction call the mechanism."""
    entry = get_attention(name)
    arxiv = (
        f"[arXiv {entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else "没有 arXiv 版本"
    )
    return Markdown(
        f"*{entry.paper}*（{entry.year}），{arxiv}。\n\n"
        f"| 选择什么 | 权重怎样算 | 怎样作用 | 名字 |\n|---|---|---|---|\n"
        f"| {DOMAINS[entry.domain]} | {entry.computed_by} | {entry.applied_by} | `{name}` |"
    )


def picture(file):
    """What it attends to on photographs, drawn by tools/book_pictures.py."""
    path = PICTURES / f"{file}.png"
    if not path.is_file():
        return Markdown(
            "还没有图片；`python tools/visualize.py maps` 可以画自己的，见[可视化](../visualize.md)。"
        )
    return Image(str(path))


def flow(name, shape=(1, 64, 32, 32), **arguments):
    """The data flow of a mechanism, drawn from a run of the layer itself."""
    layer = get_attention(name).cls(shape[1], **arguments)
    nodes = trace_flow(layer, shape)
    if len(nodes) > _TOO_MANY:
        nodes = trace_flow(layer, shape, whole=(AttentionLayer,))
    return SVG(flow_svg(nodes, f"{name} 的数据流"))


def places(at, attention="SE"):
    """A residual block with attention at a place, drawn from a run of the block."""
    network = BACKBONES["CifarResNet20"]()
    insert_attention(
        network, {"name": attention, "reduction": 4}, at=at, stages=1, blocks=2, input_shape=[3, 32, 32]
    )
    block = network.stages[0][1]
    return SVG(flow_svg(trace_flow(block, (1, 16, 32, 32), whole=(AttentionLayer,)), f"at: {at}"))


def shapes(name, *channels_and_sizes, **arguments):
    """A table of what goes in and comes out, and of its attention maps."""
    rows = ["| 输入 | 输出 | 注意力图 |", "|---|---|---|"]
    for shape in channels_and_sizes or ((2, 64, 32, 32), (1, 256, 7, 7)):
        layer = get_attention(name).cls(shape[1], **arguments)
        layer.eval()
        x = paddle.randn(list(shape))
        maps = layer.attention_maps(x) if hasattr(layer, "attention_maps") else None
        rows.append(f"| {_text(shape)} | {_text(layer(x).shape)} | {_maps(maps)} |")
    return Markdown("\n".join(rows))


def _maps(maps):
    if isinstance(maps, dict):
        return "；".join(f"`{k}` {_maps(v)}" for k, v in maps.items())
    if isinstance(maps, (list, tuple)):
        return "、".join(dict.fromkeys(map(_maps, maps)))
    return "" if maps is None else _text(maps.shape)


def _text(shape):
    return "×".join(map(str, shape))


def measured():
    """What tests/benchmarks/bench_deploy.py wrote."""
    return json.loads((DATA / "deployed.json").read_text(encoding="utf-8"))


def cost(name, **arguments):
    """Parameters, multiply-adds, and what the benchmark measured in a whole network."""
    sizes = ((64, 56), (256, 28), (512, 14))
    found = [count_complexity(get_attention(name).cls(c, **arguments), (c, s, s)) for c, s in sizes]
    rows = ["| | " + " | ".join(f"{c} 通道，{s}×{s}" for c, s in sizes) + " |", "|---|---|---|---|"]
    rows.append("| 参数量 | " + " | ".join(f"{one.params:,}" for one in found) + " |")
    rows.append("| 乘加次数 | " + " | ".join(f"{one.flops():,.0f}" for one in found) + " |")
    text, data = "\n".join(rows), measured()
    if name in data["mechanisms"]:
        entry = data["mechanisms"][name]
        text += (
            f"\n\n在 {data['network']} 里（{entry['places']}），与没有注意力时相比："
            + "，".join(f"{what}：**{entry[key]:.2f}** 倍" for key, what in MEASURED.items() if key in entry)
            + f"。{data['machine']}。"
        )
    return Markdown(text)


def latency_table():
    """The benchmark's table, from the fastest to the slowest."""
    data = measured()
    rows = [
        f"{data['network']}，{data['machine']}，相对于没有注意力的网络：",
        "",
    ]
    keys = [key for key in MEASURED if all(key in entry for entry in data["mechanisms"].values())]
    rows += [
        "| 机制 | 放在 | " + " | ".join(MEASURED[key] for key in keys) + " |",
        "|---|---|" + "---|" * len(keys),
    ]
    for name, entry in sorted(data["mechanisms"].items(), key=lambda item: item[1]["latency"]):
        rows.append(
            f"| {_link(name)} | {entry['places']} | " + " | ".join(f"{entry[key]:.2f}" for key in keys) + " |"
        )
    return "\n".join(rows)


def cost_table():
    """Added parameters and multiply-adds of the usual choices, beside their latency."""
    from paddle.vision.models import resnet50

    data = measured()["mechanisms"]
    rows = ["| 机制 | 放在 | 参数量 +% | 乘加 +% | 部署延迟 | 从恒等开始 |", "|---|---|---|---|---|---|"]
    bare = count_complexity(resnet50())
    for name, where in CHOICES.items():
        network = resnet50()
        insert_attention(network, name, **where)
        full = count_complexity(network)
        rows.append(
            f"| {_link(name)} | {data[name]['places']} | {100 * (full.params / bare.params - 1):.2f} "
            f"| {100 * (full.flops() / bare.flops() - 1):.2f} | {data[name]['latency']:.2f} | {_starts(name)} |"
        )
    return "\n".join(rows)


_LAST = {"at": "stage", "stages": [3, 4]}
CHOICES = {
    "SE": {},
    "ECA": {},
    "CBAM": {},
    "CoordAttention": {},
    "GCBlock": {},
    "SimAM": {},
    "BAM": {"at": "stage", "stages": [1, 2, 3]},
    "NonLocal2D": _LAST,
    "CrissCrossAttention": _LAST,
    "DoubleAttention": _LAST,
}


def _starts(name):
    """Whether the layer starts as the identity, or can."""
    layer = get_attention(name).cls(64)
    layer.eval()
    x = paddle.randn([1, 64, 8, 8])
    if float((layer(x) - x).abs().max()) < 1e-6:
        return "是"
    return (
        "`identity_init`"
        if "identity_init" in inspect.signature(get_attention(name).cls).parameters
        else "否"
    )


def _link(name):
    return f"[{name}](mechanisms/{get_attention(name).cls.__module__.rpartition('.')[2]}.md)"


__all__ = [
    "DOMAINS",
    "HTML",
    "Markdown",
    "cost",
    "cost_table",
    "facts",
    "flow",
    "latency_table",
    "np",
    "paddle",
    "picture",
    "places",
    "shapes",
]
