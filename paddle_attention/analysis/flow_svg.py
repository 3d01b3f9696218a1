"""A drawing of a data flow: operations from top to bottom, and the shape of every result beside its arrow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from .flow import Node

# What an operation is called in the drawing, and its colour.
_LEARNED, _POOLED, _SCALED, _JOINED, _MOVED, _ENDS, _WHOLE = (
    "#f6c177",
    "#9ccfd8",
    "#a6d189",
    "#c4a7e7",
    "#dcdcdc",
    "#ffffff",
    "#f4a6b7",
)
_LABELS = {
    "input": ("输入 x", _ENDS),
    "output": ("输出 y", _ENDS),
    "Conv1D": ("卷积", _LEARNED),
    "Conv2D": ("卷积", _LEARNED),
    "conv2d": ("卷积", _LEARNED),
    "depthwise_conv2d": ("逐通道卷积", _LEARNED),
    "Linear": ("全连接", _LEARNED),
    "BatchNorm1D": ("批归一化", _SCALED),
    "BatchNorm2D": ("批归一化", _SCALED),
    "batch_norm": ("批归一化", _SCALED),
    "LayerNorm": ("层归一化", _SCALED),
    "layer_norm": ("层归一化", _SCALED),
    "GroupNorm": ("组归一化", _SCALED),
    "group_norm": ("组归一化", _SCALED),
    "instance_norm": ("实例归一化", _SCALED),
    "AdaptiveAvgPool2D": ("全局平均池化", _POOLED),
    "AvgPool2D": ("平均池化", _POOLED),
    "MaxPool2D": ("最大池化", _POOLED),
    "pool2d": ("平均池化", _POOLED),
    "max_pool2d_with_index": ("最大池化", _POOLED),
    "mean": ("求均值", _POOLED),
    "sum": ("求和", _POOLED),
    "max": ("取最大值", _POOLED),
    "argmax": ("最大值的下标", _POOLED),
    "p_norm": ("求范数", _POOLED),
    "logsumexp": ("log-sum-exp", _POOLED),
    "maximum": ("逐元素取大", _JOINED),
    "negative": ("取负", _SCALED),
    "Dropout2D": ("Dropout", _SCALED),
    "relu6": ("ReLU6", _SCALED),
    "relu": ("ReLU", _SCALED),
    "ReLU": ("ReLU", _SCALED),
    "leaky_relu": ("Leaky ReLU", _SCALED),
    "LeakyReLU": ("Leaky ReLU", _SCALED),
    "gelu": ("GELU", _SCALED),
    "hardswish": ("h-swish", _SCALED),
    "Hardswish": ("h-swish", _SCALED),
    "sigmoid": ("Sigmoid", _SCALED),
    "Sigmoid": ("Sigmoid", _SCALED),
    "hardsigmoid": ("hard Sigmoid", _SCALED),
    "tanh": ("tanh", _SCALED),
    "exp": ("exp", _SCALED),
    "sqrt": ("开平方", _SCALED),
    "rsqrt": ("平方根的倒数", _SCALED),
    "reciprocal": ("取倒数", _SCALED),
    "square": ("平方", _SCALED),
    "power": ("乘方", _SCALED),
    "pow": ("乘方", _SCALED),
    "softmax": ("Softmax", _SCALED),
    "Softmax": ("Softmax", _SCALED),
    "multiply": ("逐元素相乘 ⊙", _JOINED),
    "add": ("逐元素相加 ⊕", _JOINED),
    "subtract": ("相减", _JOINED),
    "divide": ("相除", _JOINED),
    "matmul": ("矩阵乘法 ×", _JOINED),
    "bmm": ("矩阵乘法 ×", _JOINED),
    "concat": ("拼接", _JOINED),
    "where": ("选择", _JOINED),
    "split": ("切分", _MOVED),
    "split_with_num": ("切分", _MOVED),
    "unbind": ("分开", _MOVED),
    "stack": ("堆叠", _MOVED),
    "slice": ("切片", _MOVED),
    "move": ("变形", _MOVED),
    "channel_shuffle": ("通道混洗", _MOVED),
    "index_select": ("按下标选取", _MOVED),
    "take_along_axis": ("按下标选取", _MOVED),
    "bilinear_interp": ("双线性插值", _POOLED),
    "nearest_interp": ("最近邻插值", _POOLED),
    "grid_sample": ("按网格采样", _POOLED),
    "affine_grid": ("仿射网格", _POOLED),
}
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 150, 40, 26, 46
_STRAIGHT = 20  # of an arrow, beside which the shape stands


def label(node: Node) -> str:
    """What the node is called; with one input, a product or sum is with a parameter or a constant."""
    name = _LABELS.get(node.kind, (node.kind, _MOVED))[0]
    if node.kind == "move" and node.detail:
        return "转置"
    if len(node.sources) == 1:
        name = {"multiply": "乘以参数或常数", "add": "加上参数或常数"}.get(node.kind, name)
    return name


def flow_svg(nodes: Sequence[Node], title: str = "") -> str:
    """The flow as an SVG document of its own.

    Args:
        nodes: what :func:`paddle_attention.analysis.trace_flow` found.
        title (str): what screen readers say.
    """
    rows, ways = _layers(nodes)
    places = _places(rows)
    left = min(x for x, _ in places.values()) - _WIDTH / 2 - 60
    right = max(x for x, _ in places.values()) + _WIDTH / 2 + 60
    height = len(rows) * (_HEIGHT + _GAP_Y) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} 0 {right - left:.0f} {height}" '
        f'width="{right - left:.0f}" role="img" style="max-width:100%;height:auto" '
        'font-family="Noto Sans CJK SC, Microsoft YaHei, PingFang SC, sans-serif">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#888"/></marker></defs>',
    ]
    parts += [_way([places[p] for p in way]) for way in ways]
    for number, node in enumerate(nodes):
        parts.append(_box(node, *places[number]))
    return "\n".join([*parts, "</svg>"])


Place = int | tuple[int, int, int]  # a node, or where an arrow from one to another passes a row


def _layers(nodes: Sequence[Node]) -> tuple[list[list[Place]], list[list[Place]]]:
    """The rows from top to bottom, and every arrow as the places that it passes."""
    depth: list[int] = []
    for node in nodes:
        depth.append(1 + max((depth[s] for s in node.sources), default=-1))
    rows: list[list[Place]] = [[] for _ in range(max(depth) + 1)]
    for number, row in enumerate(depth):
        rows[row].append(number)
    ways: list[list[Place]] = []
    for number, node in enumerate(nodes):
        for source in node.sources:
            passed: list[Place] = [(source, number, row) for row in range(depth[source] + 1, depth[number])]
            for place, row in zip(passed, range(depth[source] + 1, depth[number]), strict=True):
                rows[row].append(place)
            ways.append([source, *passed, number])
    above: dict[Place, list[Place]] = {}
    below: dict[Place, list[Place]] = {}
    for way in ways:
        for upper, lower in itertools.pairwise(way):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    for sweep in range(8):
        down = sweep % 2 == 0
        for places in rows[1:] if down else rows[-2::-1]:
            _sort_by_neighbours(places, rows, above if down else below)
    return rows, ways


def _sort_by_neighbours(row: list[Place], rows: list[list[Place]], near: dict[Place, list[Place]]) -> None:
    """Put a row into the order of the means of its neighbours' places (the barycentre heuristic)."""
    index = {place: i / max(len(other), 1) for other in rows for i, place in enumerate(other, 1)}
    row.sort(key=lambda p: sum(index[q] for q in near[p]) / len(near[p]) if near.get(p) else index[p])


def _places(rows: list[list[Place]]) -> dict[Place, tuple[float, float]]:
    """The middle of every place: each row centred; arrows that pass take less room than boxes."""
    found: dict[Place, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        widths = [_WIDTH + _GAP_X if isinstance(p, int) else _WIDTH * 0.5 for p in row]
        x = -sum(widths) / 2
        for place, width in zip(row, widths, strict=True):
            found[place] = (x + width / 2, 5 + number * (_HEIGHT + _GAP_Y) + _HEIGHT / 2)
            x += width
    return found


def _way(points: list[tuple[float, float]]) -> str:
    x, y = points[0]
    y += _HEIGHT / 2
    path = [f"M{x:.0f} {y:.0f}", f"L{x:.0f} {y + _STRAIGHT:.0f}"]
    y += _STRAIGHT
    for i, (next_x, next_y) in enumerate(points[1:], 1):
        is_last = i == len(points) - 1
        top = next_y - _HEIGHT / 2
        middle = (y + top) / 2
        path.append(f"C{x:.0f} {middle:.0f} {next_x:.0f} {middle:.0f} {next_x:.0f} {top:.0f}")
        if not is_last:
            path.append(f"L{next_x:.0f} {next_y + _HEIGHT / 2:.0f}")
        x, y = next_x, next_y + _HEIGHT / 2
    return (
        f'<path d="{" ".join(path)}" fill="none" stroke="#888" stroke-width="1.4" marker-end="url(#arrow)"/>'
    )


def _box(node: Node, x: float, y: float) -> str:
    left, top = x - _WIDTH / 2, y - _HEIGHT / 2
    colour = _LABELS.get(node.kind, (node.kind, _WHOLE))[1]
    detail = f'<tspan x="{x:.0f}" dy="15" font-size="11">{escape(node.detail)}</tspan>' if node.detail else ""
    text_y = y + (-2 if node.detail else 5)
    shape = "×".join(map(str, node.shape))
    below = (
        ""
        if node.kind == "output"
        else f'<text x="{x + 5:.0f}" y="{top + _HEIGHT + 15:.0f}" font-size="11" fill="#888">{shape}</text>'
    )
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="7" fill="{colour}" stroke="#777"/>'
        f'<text x="{x:.0f}" y="{text_y:.0f}" font-size="14" text-anchor="middle" fill="#222">{escape(label(node))}{detail}</text>'
        f"{below}"
    )
