"""The data flow of a layer: its operations and shapes are those of the run, and the drawing has them all."""

import xml.etree.ElementTree as ElementTree

import paddle
import pytest
from paddle import nn

import paddle_attention as pa
from paddle_attention import AttentionLayer
from paddle_attention.analysis import flow_svg, trace_flow
from paddle_attention.analysis.flow_svg import _LABELS, label

OURS = [e for e in pa.list_attentions() if e.cls.__module__.startswith("paddle_attention.")]
ARGUMENTS = {
    "ShuffleAttention": {"groups": 8},
    "PSAModule": {"mask_h": 15, "mask_w": 15},
    "SKConv": {"groups": [1, 8]},
}


def kinds(nodes):
    return [node.kind for node in nodes]


@pytest.mark.parametrize("entry", OURS, ids=[e.name for e in OURS])
def test_every_mechanism_can_be_drawn(entry):
    layer = entry.cls(64, **ARGUMENTS.get(entry.name, {}))
    layer.train()
    nodes = trace_flow(layer, (2, 64, 12, 16), whole=(AttentionLayer,) if entry.name == "PyramidOC" else ())
    assert layer.training
    assert (nodes[0].kind, nodes[-1].kind) == ("input", "output")
    assert nodes[0].shape == nodes[-1].shape == (2, 64, 12, 16)
    assert all(s < i for i, node in enumerate(nodes) for s in node.sources)
    assert all(node.sources for node in nodes[1:])
    used = {s for node in nodes for s in node.sources}
    assert used == set(range(len(nodes) - 1))  # whatever does not reach the output is left out
    unknown = {n.kind for n in nodes} - set(_LABELS) - {type(s).__name__ for s in layer.sublayers()}
    assert not unknown
    root = ElementTree.fromstring(flow_svg(nodes, entry.name))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == len(nodes)
    assert len(root.findall(f"{space}path")) == sum(len(node.sources) for node in nodes)


def test_the_operations_of_se():
    nodes = trace_flow(pa.SEBlock(64, reduction=16), (1, 64, 8, 8))
    assert kinds(nodes) == [
        "input",
        "AdaptiveAvgPool2D",
        "Conv2D",
        "ReLU",
        "Conv2D",
        "sigmoid",
        "multiply",
        "output",
    ]
    assert [node.detail for node in nodes if node.kind == "Conv2D"] == ["1x1, 64→4", "1x1, 4→64"]
    assert nodes[6].sources in ([0, 5], [5, 0])
    assert [node.shape for node in nodes[1:6]] == [
        (1, 64, 1, 1),
        (1, 4, 1, 1),
        (1, 4, 1, 1),
        *[(1, 64, 1, 1)] * 2,
    ]


def test_the_operations_of_attention_over_positions():
    nodes = trace_flow(pa.PAM(64), (1, 64, 6, 7))
    assert kinds(nodes).count("matmul") == 2
    (softmax,) = (node for node in nodes if node.kind == "softmax")
    assert softmax.shape == (1, 42, 42)


def test_a_product_with_a_parameter_is_called_so():
    class Scaled(nn.Layer):
        def __init__(self):
            super().__init__()
            self.a = self.create_parameter([1])

        def forward(self, x):
            unused = x * x  # noqa: F841
            return self.a * x + 1.0

    nodes = trace_flow(Scaled(), (1, 2, 3, 4))
    assert [label(node) for node in nodes] == ["输入 x", "乘以参数或常数", "加上参数或常数", "输出 y"]


def test_sublayers_can_be_drawn_whole():
    model = nn.Sequential(pa.CBAM(8, reduction=2), nn.Conv2D(8, 4, 1))
    assert kinds(trace_flow(model, (1, 8, 5, 5), whole=(pa.CBAM,))) == ["input", "CBAM", "Conv2D", "output"]


def test_tracing_leaves_everything_as_it_was():
    layer = pa.CBAM(8, reduction=2)
    operator, product = paddle._C_ops.sigmoid, paddle.Tensor.__mul__
    trace_flow(layer, (1, 8, 5, 5))
    with pytest.raises(ValueError, match="CBAM"):
        trace_flow(layer, (1, 7, 5, 5))
    assert paddle._C_ops.sigmoid is operator
    assert paddle.Tensor.__mul__ is product
    assert not any(s._forward_post_hooks for s in layer.sublayers())
