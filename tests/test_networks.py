"""The named networks, their backbones, strides, and the count of their parameters and multiply-adds."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.utils import unique_name
from paddle.vision.models import densenet121, mobilenet_v1, resnet18, resnet50

from paddle_attention import GCT, SEBlock, get_attention, insert_attention, list_networks, ppcls
from paddle_attention.analysis import COUNTINGS, PUBLISHED, count_complexity
from paddle_attention.networks import BACKBONES, get_network, set_output_stride, stride_in_1x1

ROOT = Path(__file__).parent.parent


def build(name, **options):
    with unique_name.guard():  # some of PaddleClas' networks give their parameters fixed names
        return ppcls.build_network({"Arch": {"name": name, **options}})


def image(n=2, size=64):
    return paddle.to_tensor(np.random.RandomState(0).standard_normal([n, 3, size, size]).astype("float32"))


# --- presets -----------------------------------------------------------------------------


def size_for(name):
    """An image that the network takes: small, but for those made for one size of map."""
    return 224 if "GE_theta" in name else 128 if "Inception" in name else 64


# With a backbone, an argument or a place of their own; the slow test runs all.
PARTICULAR = [
    "SENet154",
    "SE_BN_Inception",
    "SE_InceptionV3",
    "SE_Inception_ResNet_v2",
    "SE_MobileNetV2",
    "Coord_MobileNetV2",
    "SKNet50",
    "GE_theta_plus_ResNet50",
    "Fca_ResNet50",
    "GCT_ResNet50",
    "A2_ResNet50",
    "DA_ResNet50",
    "EMA_ResNet50",
    "PSA_ResNet50",
]


@pytest.mark.parametrize("name", PARTICULAR)
def test_presets_run(arch, name):
    """What is inserted is what the preset says, and every layer of it is used."""
    preset = get_network(name)
    model = build(name, class_num=10)
    classes = {get_attention(spec["name"]).cls for spec in preset.attention}
    assert classes <= {type(layer) for layer in model.sublayers()}
    model.train()
    y = model(image(2, size_for(name)))
    assert y.shape == [2, 10]
    y.sum().backward()
    attention = [(n, p) for n, p in model.named_parameters() if "attention" in n and not p.stop_gradient]
    unused = [n for n, p in attention if p.grad is None]
    assert unused == [
        n for n, _ in attention if name.startswith("EMA") and ".conv1." in n
    ]  # EM has no gradient


def test_every_network_has_its_yaml(workspace):
    """ppcls_configs/ImageNet is what the tool writes: one file for each network, no other."""
    done = workspace.run(ROOT / "tools/make_configs.py", "--check")
    assert f"{len(list_networks())} files are as they should be" in done.stdout


def test_preset_placements(arch):
    """The paper's figures: where SE stands, which blocks get a non-local block, what is dilated."""
    places = {
        "SE_PRE_ResNet50": "blocks.1.conv0.attention.fc1.weight",
        "SE_POST_ResNet50": "blocks.1.attention.fc1.weight",
        "SE_Identity_ResNet50": "blocks.1.attention.fc1.weight",
        "SE_3x3_ResNet50": "blocks.1.conv1.attention.fc1.weight",
        "SE_ResNet50": "blocks.1.conv2.attention.fc1.weight",
    }
    for name, key in places.items():
        keys = [k for k in build(name).state_dict() if k.endswith("attention.fc1.weight")]
        assert key in keys
        assert len(keys) == 16
    model = build("GCT_ResNet50")  # before every convolution
    before = [name for name, layer in model.named_sublayers() if isinstance(layer, GCT)]
    convolutions = [name for name, layer in model.named_sublayers() if isinstance(layer, nn.Conv2D)]
    assert [n.replace("attention", "conv") for n in before] == convolutions
    assert all(layer._forward_pre_hooks for n, layer in model.named_sublayers() if f"{n}.attention" in before)
    blocks = {
        "NL_ResNet50": [4, 6, 8, 10, 12],
        "NL_ResNet50_10blocks": list(range(3, 13)),
        "NL_ResNet50_1block": [11],
        "BAM_ResNet50": [2, 6, 12],
        "DA_ResNet50": [15],
    }
    for name, expected in blocks.items():
        keys = {k.partition(".attention")[0] for k in build(name).state_dict() if "attention" in k}
        assert keys == {f"blocks.{i}" for i in expected}, name
    assert build("DA_ResNet50").blocks[15].conv1.conv._dilation == [4, 4]
    assert build("DA_ResNet50", output_stride=16).blocks[15].conv1.conv._dilation == [2, 2]


# --- backbones of our own ----------------------------------------------------------------

OWN = {
    # parameters: those of the networks that others have published
    "BN_Inception": (11_295_240 - 10_016, 2.03, 224),  # those of Caffe have biases before the normalisation
    "Inception_ResNet_v2": (55_843_464, 13.16, 299),
    "SENet154": (115_088_984, 20.7, 224),
}


@pytest.mark.parametrize("name", OWN)
def test_backbones(arch, name):
    params, flops, size = OWN[name]
    found = count_complexity(build(name), [3, size, size])
    assert found.params == params
    assert round(found.flops() / 1e9, len(str(flops).partition(".")[2])) == flops


@pytest.mark.parametrize(
    ("name", "millions"),
    [("CifarResNet20", 0.27), ("CifarResNet32", 0.46), ("CifarResNet56", 0.85), ("CifarResNet110", 1.7)],
)
def test_resnets_for_small_images(name, millions):
    """Table 6 of the ResNet paper; shortcuts without parameters, which skip every other position."""
    network = BACKBONES[name]()
    params = sum(int(p.size) for p in network.parameters() if p.trainable)
    assert params / 1e6 == pytest.approx(millions, abs=0.03 if millions > 1 else 0.005)
    convolutions = [layer for layer in network.sublayers() if isinstance(layer, (nn.Conv2D, nn.Linear))]
    assert len(convolutions) == int(name.removeprefix("CifarResNet"))
    block = network.stages[1][0]
    for layer in block.sublayers():
        if isinstance(layer, nn.Conv2D):
            layer.weight.set_value(paddle.zeros_like(layer.weight))
    block.eval()
    x = paddle.abs(paddle.randn([2, 16, 8, 8]))
    y = block(x).numpy()
    np.testing.assert_array_equal(y[:, 8:24], x.numpy()[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_backbones_have_no_published_weights(arch):
    for name in BACKBONES:
        with pytest.raises(ValueError, match="no published weights"):
            build("AttentionNet", backbone=name, attention=[], pretrained=True)


# --- strides -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "stride"), [(resnet18, 8), (resnet50, 16), (resnet50, 8), (mobilenet_v1, 16)]
)
def test_dilation_computes_the_same_values_in_between(make, stride):
    """A trous: at the positions that the strided network has, the dilated one has the same numbers."""
    paddle.seed(0)
    plain = make(num_classes=0, with_pool=False)
    plain.eval()
    for layer in plain.sublayers():  # so that zero padding is seen
        if isinstance(layer, nn.BatchNorm2D):
            layer.bias.set_value(paddle.uniform(layer.bias.shape, min=-0.3, max=0.3))
    x = image(1, 128)
    expected = plain(x).numpy()
    assert set_output_stride(plain, stride) is plain
    got = plain(x).numpy()
    step = 32 // stride
    assert got.shape[2] == 128 // stride == expected.shape[2] * step
    assert np.abs(got[:, :, ::step, ::step] - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_layer_that_runs_twice_is_dilated_once():
    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.down = nn.LayerList(nn.Conv2D(3, 3, 3, stride=2, padding=1) for _ in range(4))
            self.conv = nn.Conv2D(3, 3, 3, padding=1)

        def forward(self, x):
            for layer in self.down:
                x = layer(x)
            return self.conv(self.conv(x))

    model = Twice()
    x = image(1, 128)
    expected = model(x).numpy()
    set_output_stride(model, 8)
    assert model.conv._dilation == [2, 2]
    assert np.abs(model(x).numpy()[:, :, ::2, ::2] - expected).max() < 1e-5


def test_output_stride_32_changes_nothing():
    model = resnet18()
    before = [(x._stride, x._dilation) for x in model.sublayers() if isinstance(x, nn.Conv2D)]
    set_output_stride(model, 32)
    assert [(x._stride, x._dilation) for x in model.sublayers() if isinstance(x, nn.Conv2D)] == before


def test_dilating_a_network_with_average_pooling_in_its_shortcuts(arch):
    model = arch.ResNet50_vd()
    set_output_stride(model, 8)
    assert model.blocks(model.max_pool(model.stem(image(1, 128)))).shape[2:] == [16, 16]


@pytest.mark.parametrize(
    ("make", "stride", "message"),
    [
        (resnet18, 7, "must be 4, 8, 16 or 32, but got 7"),
        (densenet121, 8, "pooling layer '.*pool2d_avg' of DenseNet lies beyond it and cannot be dilated"),
        (lambda: build("VGG11"), 8, "pooling layer 'conv_block_4.max_pool' of VGGNet lies beyond it"),
        (lambda: build("InceptionV3"), 8, "of an image of 128; only networks that halve the size exactly"),
    ],
)
def test_what_cannot_be_dilated(arch, make, stride, message):
    with pytest.raises(ValueError, match=message):
        set_output_stride(make(), stride)


def test_stride_in_1x1(arch):
    model = arch.ResNet50()
    before = model.state_dict().keys()
    assert stride_in_1x1(model) is model
    assert model.state_dict().keys() == before
    assert [model.blocks[3].conv0.conv._stride[0], model.blocks[3].conv1.conv._stride[0]] == [2, 1]
    assert round(count_complexity(model).flops() / 1e9, 2) == 3.86
    with pytest.raises(ValueError, match="no bottleneck with its stride on the 3x3"):
        stride_in_1x1(model)


# --- counting ----------------------------------------------------------------------------


class Small(nn.Layer):
    """Operators of every kind that is counted, on maps of 4 x 6."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, stride=2, padding=1, groups=1)
        self.depthwise = nn.Conv2D(8, 8, 3, padding=1, groups=8, bias_attr=False)
        self.norm = nn.BatchNorm2D(8)
        self.up = nn.Conv2DTranspose(8, 4, 2, stride=2)
        self.pool = nn.AvgPool2D(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.conv(x)  # [1, 8, 4, 6]
        x = nn.functional.relu(self.norm(self.depthwise(x))) + x
        self.up(x)
        flat = x.flatten(2)
        paddle.matmul(flat, flat, transpose_y=True)
        flat.transpose([0, 2, 1]) @ flat
        paddle.einsum("nij, njk -> nki", flat, flat.transpose([0, 2, 1]))
        gate = nn.functional.adaptive_avg_pool2d(x, 1)
        x = x * gate * 2.0 + 1.0
        return self.fc(self.pool(x).mean([2, 3]))


def test_counting_by_hand():
    found = count_complexity(Small(), [3, 8, 12])
    area = 4 * 6
    assert found.work == {
        "conv": area * 8 * 27 + area * 8 * 9 + area * 8 * 4 * 4,
        "matmul": 8 * 8 * area + area * area * 8 + 8 * 8 * area + 8 * 5,
        "norm": area * 8,
        "activation": area * 8,
        "add": area * 8,
        "multiply": area * 8,
        "global_pool": area * 8,
        "pool": area * 8,
    }
    assert found.params == (8 * 27 + 8) + 8 * 9 + 16 + (8 * 4 * 4 + 4) + (8 * 5 + 5)
    assert found.statistics == 16
    macs = found.work["conv"] + found.work["matmul"]
    one = area * 8
    expected = {
        "macs": macs,
        "adds": macs + one,
        "senet": macs + 2 * one,
        "axpy": macs + 2 * one,
        "thop": macs + 2 * one,
        "ptflops": macs + 5 * one,
    }
    assert {name: found.flops(name) for name in COUNTINGS} == expected
    with pytest.raises(ValueError, match=r"counting must be one of .* but got 'flops'"):
        found.flops("flops")


def test_counting_leaves_no_trace():
    model = nn.Sequential(nn.Conv2D(3, 8, 3), SEBlock(8, 2))
    originals = paddle._C_ops.conv2d, paddle.Tensor.__mul__
    model.train()
    count_complexity(model, [3, 8, 8])
    assert (paddle._C_ops.conv2d, paddle.Tensor.__mul__) == originals
    assert all(layer.training for layer in model.sublayers())
    assert not any(layer._forward_pre_hooks for layer in model.sublayers())
    with pytest.raises(ValueError, match=r"channels is 9"):
        count_complexity(model, [9, 8, 8])
    assert paddle._C_ops.conv2d is originals[0]


# The rows that every printed digit must agree with, whatever else changes.
FIRM = [
    p
    for p in PUBLISHED
    if (
        p.table == "Tables 15, 16" or p.title in ("SKNet-50", "ResNet50 + CBAM", "ECA-Net18", "ResNet18 + SE")
    )
    or p.title in ("SE-ResNet-50", "FcaNet-50", "ResNet-50, k = 7", "SE_Stage_4")
]


@pytest.mark.parametrize("entry", FIRM, ids=[f"{p.paper}-{p.title}" for p in FIRM])
def test_published_numbers(arch, entry):
    with unique_name.guard():
        network = ppcls.build_network({"Arch": dict(entry.arch)})
    found = count_complexity(network, [3, entry.size, entry.size])
    assert entry.agrees(found) == (True, True), entry.scaled(found)


def test_document_has_the_measured_rows(workspace):
    """A few rows of docs/networks.md, measured again."""
    document = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    names = ("--published", "SE_3x3", "SKNet-50", "--networks", "SE_ResNet50", "Coord_MobileNetV2")
    printed = workspace.run(ROOT / "tools" / "complexity.py", *names).stdout.splitlines()
    rows = [
        line for line in printed if line.startswith("| ") and not line.startswith(("| paper ", "| network "))
    ]
    assert len(rows) == 4
    for row in rows:
        assert row in document
    for entry in PUBLISHED:
        assert f"| {entry.paper}, {entry.table} | {entry.title} |" in document
    for name in list_networks():
        assert f"| {name} |" in document


def test_rows_that_differ_say_why():
    """In the document, every number that is not the printed one has a remark."""
    document = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    for line in document.splitlines():
        if "**" in line and line.startswith("|"):
            assert line.split("|")[-2].strip(), line


def test_dilation_tries_several_image_sizes():
    class Fixed(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 4, 3, stride=2, padding=1)

        def forward(self, x):
            assert x.shape[2] == 224, f"of {x.shape[2]}"
            return self.conv(x)

    model = Fixed()
    assert set_output_stride(model, 4) is model
    narrow = type("Narrow", (Fixed,), {"forward": lambda self, x: Fixed.forward(self, x[:, :, :7])})()
    with pytest.raises(
        ValueError, match="Narrow does not run on an image of 128, 224 or 256: assert 7 == 224"
    ):
        set_output_stride(narrow, 8)


@pytest.mark.slow
def test_document_is_current(workspace):
    """Both tables, whole."""
    document = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    printed = workspace.run(ROOT / "tools" / "complexity.py").stdout.splitlines()
    rows = [line for line in printed if line.startswith("| ")]
    assert len(rows) == len(PUBLISHED) + len(list_networks()) + 2
    for row in rows:
        assert row in document


# --- the matrix of backbones -------------------------------------------------------------

MATRIX = ["MobileNetV3", "DeiT"]


@pytest.mark.parametrize("family", MATRIX)
def test_backbone_matrix(workspace, family):
    """A sample of docs/backbones.md, measured again by its tool."""
    done = workspace.run(ROOT / "tools" / "backbone_matrix.py", "--mechanisms", "SE,CBAM", family)
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {family} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    document = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    known = next(line for line in document.splitlines() if line.startswith(f"| {family} |"))
    assert [cell.strip() for cell in known.strip("|").split("|")][:5] == cells[:5]
    assert cells[4] == "ok"
    if family == "DeiT":
        assert cells[5] != "ok"
        assert "CBAM needs a feature map" in done.stdout
    else:
        assert cells[5] == "ok"


def test_matrix_goal():
    """At least 30 families take SE, CBAM and ECA."""
    lines = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ") and "`" in line]
    assert sum([cell.strip() for cell in row[4:7]] == ["ok"] * 3 for row in rows) >= 30


@pytest.mark.slow
def test_presets_export(workspace):
    """Every named network trains a step, and exports to the same numbers."""
    done = workspace.run(ROOT / "tools" / "backbone_matrix.py", "--presets", timeout=7200)
    assert [name for name in list_networks() if f"{name}: ok" not in done.stdout.splitlines()] == []


def test_insertion_does_not_need_paddleclas_classes():
    """Backbones of the old model zoo and of paddle.vision have no TheseusLayer."""
    assert insert_attention(resnet18(), "SE")
