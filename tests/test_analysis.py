"""Looking into networks: attention maps, excitation by class, class activation, the summary, and their pictures."""

import csv
import io
import json
import math
import types
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

import paddle_attention as pa
from paddle_attention import analysis, insert_attention
from paddle_attention.analysis import cam, pictures
from paddle_attention.analysis.attention_log import AttentionLog
from paddle_attention.analysis.attention_maps import grid_size
from paddle_attention.analysis.flow import trace_flow
from paddle_attention.analysis.graph import visualdl_graph
from paddle_attention.checkpoint import save_weights
from paddle_attention.cli import main as cli
from paddle_attention.networks import BACKBONES
from paddle_attention.preprocess import build_transforms, photographer

IMAGES = np.random.RandomState(0).standard_normal([2, 3, 24, 32]).astype("float32")
PHOTOGRAPH = photographer([{"NormalizeImage": {"mean": [0.0] * 3, "std": [1.0] * 3}}])
INSERTED = [
    ("SE", "residual", {"gate"}),
    ("CBAM", "residual", {"gate"}),
    ("CoordAttention", "residual", {"gate"}),
    ("SKConv", "conv", {"branches"}),
    ("PAM", "stage", {"positions"}),
    ("SelfAttention2D", "stage", {"heads"}),
    ("NonLocal2D", "stage", {"positions"}),
    ("CrissCrossAttention", "stage", {"column", "row"}),
    ("DAModule", "stage", {"positions", "channels"}),
    ("EMAU", "stage", {"bases"}),
    ("DoubleAttention", "stage", {"units"}),
    ("SpatialTransformer", "stage", {"grid"}),
]


def network(attention=None, at="residual"):
    """A small network with attention, whose weights are not where they start."""
    paddle.seed(1)
    model = BACKBONES["CifarResNet20"]()
    if attention is not None:
        arguments = {"groups": [1, 1]} if attention == "SKConv" else {}
        stages = {"stages": [3]} if at == "stage" else {}
        insert_attention(model, {"name": attention, **arguments}, at=at, input_shape=[3, 32, 32], **stages)
    for parameter in model.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def cbam():
    return network("CBAM")


# --- maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at", "kinds"), INSERTED, ids=[name for name, _, _ in INSERTED])
def test_maps_of_inserted_attention(name, at, kinds):
    """Every kind of map is recorded from a network and can be drawn."""
    model = network(name, at)
    model.train()
    model.stem.eval()
    modes = [layer.training for layer in model.sublayers()]
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    maps = analysis.record_maps(model, IMAGES, only="stages.2.2", features=True)
    assert {m.kind for m in maps} == kinds
    assert [layer.training for layer in model.sublayers()] == modes
    assert all(np.array_equal(v.numpy(), state[k]) for k, v in model.state_dict().items())
    assert not any(layer._forward_post_hooks for layer in analysis.attention_layers(model).values())
    photo = PHOTOGRAPH(IMAGES[1])
    rows = list(pictures.map_rows(photo, maps, 1, (0.25, 0.75)))
    assert len(rows) == 1 + len(maps)
    assert all(panels for _, panels in rows)
    pictures.draw_rows(rows).savefig(io.BytesIO(), format="png", dpi=20)


def test_recorded_maps_are_those_of_the_layers(cbam):
    maps = analysis.record_maps(cbam, IMAGES, only="stages.2.1", features=True)
    assert [m.name for m in maps] == ["channel", "spatial"]
    assert maps[0].layer == "stages.2.1.bn2.attention"
    layer = dict(cbam.named_sublayers())[maps[0].layer]
    layer.eval()
    expected = layer.attention_maps(paddle.to_tensor(maps[0].before))
    for found in maps:
        np.testing.assert_allclose(found.values, expected[found.name].numpy(), rtol=1e-6)
        assert found.size == (6, 8)
    gates = maps[0].gate(1) * maps[1].gate(1)
    np.testing.assert_allclose(maps[0].after[1], maps[0].before[1] * gates, rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_called_twice_has_two_maps():
    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.gate = pa.SpatialAttention(3)

        def forward(self, x):
            return self.gate(self.gate(x))

    assert [m.layer for m in analysis.record_maps(Twice(), IMAGES)] == ["gate", "gate#2"]


def test_a_layer_by_itself_has_maps():
    (found,) = analysis.record_maps(pa.ECA(3), IMAGES)
    assert (found.layer, found.title) == ("", "ECA")
    assert found.channel_weights(0).shape == (1, 3)
    assert found.pixel_maps(0).shape == (0, 24, 32)


@pytest.mark.parametrize("only", [None, "stage7"])
def test_no_attention_no_maps(cbam, only):
    model = network() if only is None else cbam
    with pytest.raises(ValueError, match="no attention that can show maps"):
        analysis.record_maps(model, IMAGES, only)


def test_the_query_row_is_that_of_the_point():
    layer = pa.PAM(8)
    x = paddle.to_tensor(np.random.RandomState(1).standard_normal([1, 8, 5, 7]).astype("float32"))
    (found,) = analysis.record_maps(layer, x)
    weights = layer.attention_maps(x).numpy()[0].reshape(5, 7, 5, 7)
    for point, (i, j) in {
        (0, 0): (0, 0),
        (0.5, 0.5): (2, 3),
        (1.0, 1.0): (4, 6),
        (0.3, 0.99): (1, 6),
    }.items():
        np.testing.assert_array_equal(found.source_map(0, point), weights[i, j])


def test_criss_cross_shows_a_cross():
    layer = pa.CrissCrossAttention(8)
    x = paddle.to_tensor(np.random.RandomState(1).standard_normal([1, 8, 5, 7]).astype("float32"))
    column, row = analysis.record_maps(layer, x)
    shown = column.source_map(0, (0.5, 0.5)) + row.source_map(0, (0.5, 0.5))
    assert shown.sum() == pytest.approx(1.0, abs=1e-5)
    assert (shown[:, 3] > 0).all() or (shown[2] > 0).all()
    assert np.count_nonzero(shown) <= 5 + 7 - 1
    with pytest.raises(ValueError, match="no query position"):
        analysis.record_maps(pa.ECA(8), x)[0].source_map(0, (0, 0))


@pytest.mark.parametrize(
    ("positions", "size", "expected"),
    [
        (35, (5, 7), (5, 7)),
        (16 * 8, (64, 32), (16, 8)),
        (49, (224, 224), (7, 7)),
        (7, (1, 7), (1, 7)),
        (12, (7, 9), (3, 4)),
    ],
)
def test_grid_size(positions, size, expected):
    assert grid_size(positions, size) == expected


class WithoutMaps(pa.AttentionLayer):
    """A mechanism of a user's whose maps are not what its class says, or which fails."""

    def __init__(self, channels, maps):
        super().__init__()
        self.channels, self.maps = channels, maps

    def attention_maps(self, x):
        return self.maps(x)

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "maps",
    [
        lambda x: paddle.zeros([x.shape[0], 16, 16]),
        lambda x: paddle.zeros([x.shape[0], x.shape[2], x.shape[3]]),
        lambda x: paddle.zeros([x.shape[0], 3, x.shape[2] // 2, x.shape[3]]),
        lambda x: np.zeros([2, 3, 1, 1]),
    ],
    ids=["positions", "without its axis", "half as large", "an array"],
)
def test_maps_of_another_shape_name_the_layer(maps):
    with pytest.raises(
        ValueError, match=r"layer gate: the map '' of WithoutMaps is .* say in MAPS of WithoutMaps"
    ):
        analysis.record_maps(
            nn.Sequential(("gate", WithoutMaps(3, maps)), ("eca", pa.ECA(3))), IMAGES, "gate"
        )


def test_a_fault_in_maps_is_not_hidden():
    def fail(x):
        raise ValueError("bug in my maps")

    with pytest.raises(ValueError, match="bug in my maps"):
        analysis.record_maps(WithoutMaps(3, fail), IMAGES)
    with pytest.raises(ValueError, match="none of its attention made a map"):
        analysis.record_maps(pa.GCBlock(16, pooling_type="avg"), paddle.zeros([1, 16, 4, 4]))


def test_before_is_before_a_change_in_place():
    class InPlace(pa.ECA):
        def forward(self, x):
            return x.scale_(0.0)

    (found,) = analysis.record_maps(InPlace(3), IMAGES, features=True)
    np.testing.assert_array_equal(found.before, IMAGES)
    assert not found.after.any()


def test_tokens_are_not_drawn_on_the_photograph():
    tokens = paddle.randn([1, 16, 10, 1])
    photo = PHOTOGRAPH(IMAGES[0])
    for layer in (pa.PAM(16), pa.ECA(16)):
        found = analysis.record_maps(layer, tokens, features=True)
        assert found[0].of_tokens
        ((_, panels),) = list(pictures.map_rows(photo, found, 0, (0.5, 0.5)))[1:]
        assert {p.title for p in panels} <= {"weights of one token", "channel weights"}


def test_parts_of_a_partition_are_known():
    found = analysis.record_maps(pa.PyramidOC(16, sizes=(1, 2)), paddle.randn([1, 16, 8, 8]))
    assert [m.of_a_part for m in found] == [False, True, True, True, True]


# --- excitation ------------------------------------------------------------------------------


def test_class_specificity():
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(10), 40)
    decided = analysis.Excitation("a", random.rand(10, 6)[labels], labels)
    noise = analysis.Excitation("b", random.rand(400, 6), labels)
    half = analysis.Excitation(
        "c", decided.values + random.randn(400, 6) * decided.values.std(axis=0), labels
    )
    constant = analysis.Excitation("d", np.ones([400, 6]), labels)
    assert decided.class_specificity() == pytest.approx(1.0)
    assert noise.class_specificity() < 0.02
    assert 0.4 < half.class_specificity() < 0.6
    assert constant.class_specificity() == 0


def test_excitation_of_a_network():
    model, labels = network("SE"), [[3, 5], [5, 3]]
    found = analysis.record_excitation(model, [(IMAGES, labels[0]), (IMAGES[::-1].copy(), labels[1])])
    assert [e.values.shape for e in found] == [(4, 16)] * 3 + [(4, 32)] * 3 + [(4, 64)] * 3
    # The same two images in another order: both classes have the same mean.
    np.testing.assert_allclose(found[0].mean(3), found[0].values[[0, 3]].mean(axis=0))
    np.testing.assert_allclose(found[0].values[0], found[0].values[3], rtol=1e-5)
    rows = list(csv.DictReader(io.StringIO(analysis.excitation_csv(found, {3: "cat"}))))
    assert len(rows) == 2 * 3 * (16 + 32 + 64)
    assert {row["class"] for row in rows} == {"cat", "5"}
    assert float(rows[0]["mean"]) == pytest.approx(found[0].mean(3)[0], abs=1e-6)
    pictures.draw_excitation(found, {3: "cat"}, within=3).savefig(io.BytesIO(), format="png", dpi=20)


def test_excitation_needs_images_and_gates():
    with pytest.raises(ValueError, match="no image"):
        analysis.record_excitation(network("SE"), [])
    with pytest.raises(ValueError, match="weighs channels"):
        analysis.record_excitation(network("SpatialAttention"), [(IMAGES, [0, 1])])


# --- class activation ------------------------------------------------------------------------


class Pooled(nn.Layer):
    """A convolution, ReLU, global average pooling, a classifier: Grad-CAM in closed form."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2D(3, 4, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean(axis=[2, 3]))


def closed_form(model, method, classes):
    """The map by the papers' equations; the derivative of a logit by a position is w_c / (H W)."""
    a = model.relu(model.conv(paddle.to_tensor(IMAGES))).numpy().astype("float64")
    g = model.fc.weight.numpy().T[classes].astype("float64")[:, :, None, None] / (24 * 32) * np.ones_like(a)
    if method == "gradcam":
        weights = g.mean(axis=(2, 3), keepdims=True)
    elif method == "gradcam++":
        divisor = 2 * g**2 + a.sum(axis=(2, 3), keepdims=True) * g**3
        weights = (g**2 / np.where(divisor == 0, 1, divisor) * np.maximum(g, 0)).sum(
            axis=(2, 3), keepdims=True
        )
    else:
        weights = 0.25
    m = np.maximum((weights * a).sum(axis=1), 0)
    low = m.min(axis=(1, 2), keepdims=True)
    return (m - low) / np.maximum(m.max(axis=(1, 2), keepdims=True) - low, 1e-30)


@pytest.mark.parametrize("method", cam.METHODS)
def test_class_activation_is_the_equation(method):
    paddle.seed(3)
    model, classes = Pooled(), [2, 4]
    for parameter in model.parameters():
        parameter.stop_gradient = True  # a frozen network has maps as well
    maps, logits = analysis.class_activation(model, IMAGES, classes, "relu", method)
    np.testing.assert_allclose(maps, closed_form(model, method, classes), atol=2e-5)
    np.testing.assert_allclose(logits, model(paddle.to_tensor(IMAGES)).numpy(), rtol=1e-5)
    assert maps.max() == pytest.approx(1.0)


def test_class_activation_by_default(cbam):
    cbam.train()
    maps, logits = analysis.class_activation(cbam, IMAGES)
    assert cbam.training
    # The last map is that after the last addition, which no layer but the stage returns.
    assert analysis.last_feature_layer(cbam, paddle.to_tensor(IMAGES)) == "stages.2"
    again, _ = analysis.class_activation(cbam, IMAGES, logits.argmax(axis=1), "stages.2")
    np.testing.assert_allclose(maps, again)
    assert maps.shape == (2, 6, 8)
    assert all(p.grad is None for p in cbam.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "scorecam"}, "method must be one of"),
        ({"layer": "stages.9"}, "no layer 'stages.9'"),
        ({"layer": "fc"}, "no feature map"),
        ({"classes": [1, 10]}, "from 0 to 9"),
        ({"classes": [1]}, "must be 2 numbers"),
        ({"classes": [1.5, 2]}, "must be 2 numbers"),
    ],
)
def test_class_activation_mistakes(cbam, arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.class_activation(cbam, IMAGES, **arguments)


def test_class_activation_of_what_is_returned_first():
    class Several(Pooled):
        def forward(self, x):
            return [super().forward(x), x]

    paddle.seed(3)
    plain = Pooled()
    several = Several()
    several.set_state_dict(plain.state_dict())
    with paddle.no_grad():
        maps, _ = analysis.class_activation(several, IMAGES, [2, 4], "relu")
    np.testing.assert_allclose(maps, closed_form(plain, "gradcam", [2, 4]), atol=2e-5)
    analysis.faithfulness(several, IMAGES[0], maps[0], 2, steps=2)


def test_layers_off_the_way_are_named():
    class Beside(Pooled):
        def __init__(self):
            super().__init__()
            self.side = nn.Conv2D(3, 2, 1)

        def forward(self, x):
            self.side(x)
            return super().forward(x)

    with pytest.raises(ValueError, match="do not depend on layer 'side'"):
        analysis.class_activation(Beside(), IMAGES, layer="side")


def test_tokens_have_no_last_feature_map():
    class Tokens(nn.Layer):
        def __init__(self):
            super().__init__()
            self.patches, self.fc = nn.Conv2D(3, 8, 8, 8), nn.Linear(8, 5)
            self.mixing = nn.LayerList([nn.Linear(8, 8) for _ in range(4)])
            self.drop = nn.Dropout(0.0)

        def forward(self, x):
            t = self.patches(x).flatten(2).transpose([0, 2, 1])
            for layer in self.mixing:
                self.drop(paddle.matmul(t, t, transpose_y=True).unsqueeze(1))
                t = layer(t)
            return self.fc(t.mean(axis=1))

    with pytest.raises(ValueError, match=r"no feature map .* at its end; the last is 'patches'"):
        analysis.class_activation(Tokens(), IMAGES)


def test_faithful_maps_are_told_from_others():
    class Corner(nn.Layer):
        """Class 1 is how bright the upper left quarter is."""

        def forward(self, x):
            seen = x[:, :, :12, :16].mean(axis=[1, 2, 3])
            return paddle.stack([paddle.zeros_like(seen), 80 * (seen - 0.9)], axis=1)

    image = np.zeros([3, 24, 32], "float32")
    image[:, :12, :16] = 1
    right, wrong = np.zeros([24, 32]), np.zeros([24, 32])
    right[:12, :16], wrong[12:, 16:] = 1, 1
    model = Corner()
    good, bad = (analysis.faithfulness(model, image, m, 1) for m in (right, wrong))
    assert good.deletion[0] == pytest.approx(1 / (1 + math.exp(-8)), abs=1e-4) == good.insertion[-1]
    assert good.deletion_area < bad.deletion_area - 0.2
    assert good.insertion_area > bad.insertion_area + 0.2
    with pytest.raises(ValueError, match="must be"):
        analysis.faithfulness(model, image, right[:5], 1)


# --- summary ---------------------------------------------------------------------------------


def test_summary_adds_up(cbam):
    parts = analysis.summarize(cbam, [3, 32, 32])
    complexity = analysis.count_complexity(cbam, [3, 32, 32])
    assert (parts[0].params, parts[0].macs) == (complexity.params, complexity.flops())
    found = [p for p in parts if p.attention]
    assert [p.path for p in found] == [f"stages.{s}.{b}.bn2.attention" for s in range(3) for b in range(3)]
    plain = analysis.count_complexity(network(), [3, 32, 32])
    assert sum(p.params for p in found) == complexity.params - plain.params
    assert sum(p.macs for p in found) == complexity.flops() - plain.flops()
    lines = list(analysis.summary_lines(parts))
    assert max(map(len, lines)) <= 100
    assert "* attention: 9 layers" in lines[-1]


def test_work_by_layer_is_where_it_is_done():
    work = analysis.work_by_layer(Pooled(), [3, 24, 32])
    assert work["conv"] == {"conv": 24 * 32 * 4 * 27}
    assert work["fc"] == {"matmul": 20}


# --- the command -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _installed_paddleclas(monkeypatch):
    """Commands run in this process, where another PaddleClas may have been imported already."""
    monkeypatch.delenv("PADDLECLAS_HOME", raising=False)


@pytest.fixture(scope="module")
def project(workspace, tmp_path_factory):
    """A YAML on the digits, and weights for it."""
    folder = tmp_path_factory.mktemp("visualize")
    digits = workspace.path / "dataset/digits"
    normalize = {"NormalizeImage": {"mean": [0.5] * 3, "std": [0.25] * 3, "order": ""}}
    config = {
        "Global": {"device": "cpu", "image_shape": [3, 32, 32], "pretrained_model": str(folder / "weights")},
        "Arch": {
            "name": "AttentionNet",
            "class_num": 10,
            "backbone": {"name": "CifarResNet20"},
            "attention": [{"name": "CBAM", "at": "residual", "reduction": 4}],
        },
        "DataLoader": {
            "Eval": {
                "dataset": {
                    "name": "ImageNetDataset",
                    "image_root": str(digits),
                    "cls_label_path": str(digits / "test_list.txt"),
                    "transform_ops": [],
                },
                "sampler": {"name": "DistributedBatchSampler", "batch_size": 4},
                "loader": {"num_workers": 0},
            }
        },
        "Infer": {
            "infer_imgs": str(digits / "7/0044.bmp"),
            "transforms": [
                {"DecodeImage": {"to_rgb": True}},
                {"ResizeImage": {"size": 32}},
                normalize,
                {"ToCHWImage": None},
            ],
            "PostProcess": {"name": "Topk", "class_id_map_file": str(digits / "label_list.txt")},
        },
    }
    path = folder / "cbam.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    model = BACKBONES["CifarResNet20"](class_num=10)
    insert_attention(model, {"name": "CBAM", "reduction": 4}, at="residual", input_shape=[3, 32, 32])
    save_weights(model.state_dict(), str(folder / "weights.pdparams"))
    return folder


def run(capsys, *words):
    status = cli("visualize", list(map(str, words)))
    done = capsys.readouterr()
    return status, done.out.splitlines(), done.err.splitlines()


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("what", ["maps", "cam"])
def test_pictures_of_an_image(project, capsys, tmp_path, what):
    options = (
        ["--beside", project / "cbam.yaml", project / "weights"] if what == "cam" else ["--layer", "stages.2"]
    )
    status, out, _ = run(capsys, what, "-c", project / "cbam.yaml", "--output", tmp_path, *options)
    path = tmp_path / f"{what}_7_0044.png"
    assert (status, out[-1]) == (0, str(path))
    assert is_png(path)


def test_pictures_of_a_list(project, workspace, capsys, tmp_path):
    digits = workspace.path / "dataset/digits"
    listed = tmp_path / "list.txt"
    listed.write_text("7/0044.bmp 7\n3/0045.bmp\n")
    status, out, _ = run(
        capsys,
        "maps",
        "-c",
        project / "cbam.yaml",
        "--layer",
        "stages.2.2",
        "--images",
        listed,
        "--image-root",
        digits,
        "--output",
        tmp_path,
    )
    assert status == 0
    assert [line for line in out if line.endswith(".png")] == [
        str(tmp_path / "maps_digits_7_0044.png"),
        str(tmp_path / "maps_digits_3_0045.png"),
    ]


def test_excitation_files(project, capsys, tmp_path):
    status, out, _ = run(
        capsys,
        "excitation",
        "-c",
        project / "cbam.yaml",
        "--output",
        tmp_path,
        "--limit",
        2,
        "--classes",
        1,
        7,
    )
    assert status == 0
    assert [line for line in out if str(tmp_path) in line] == [
        str(tmp_path / name) for name in ("excitation.csv", "excitation.png", "excitation_within_1.png")
    ]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "excitation.csv").read_text())))
    assert {row["class"] for row in rows} == {"digit_1", "digit_7"}
    assert {row["images"] for row in rows} == {"2"}
    assert is_png(tmp_path / "excitation.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["maps", "-o", "Global.pretrained_model=null"], "Global.pretrained_model: missing"),
        (["maps", "--layer", "nowhere"], "no attention that can show maps in layers named *nowhere*"),
        (["maps", "--images", "/nowhere"], "'/nowhere' is not an image"),
        (["excitation", "--classes", "77"], "has no image of class 77"),
        (["excitation", "--images", "."], "needs a list file"),
        (["cam", "--layer", "nowhere"], "has no layer 'nowhere'"),
        (["cam", "--class-id", "10"], "--class-id: classes must be 1 numbers from 0 to 9"),
        (["maps", "--class-id", "3"], "--class-id belongs to cam, not to maps"),
        (["cam", "--point", "0", "1"], "--point belongs to maps, not to cam"),
        (["excitation", "--images", "x.bmp"], "needs a list file"),
    ],
)
def test_mistakes_are_one_line(project, capsys, tmp_path, words, message):
    status, _, err = run(capsys, words[0], "-c", project / "cbam.yaml", "--output", tmp_path, *words[1:])
    assert status == 2
    assert message in err[-1]
    assert err[-1].startswith("error: ")


@pytest.mark.parametrize(
    "words", [["--limit", "0"], ["--limit", "-1"], ["--point", "nan", "0"], ["--point", "0", "1.5"]]
)
def test_options_are_checked(project, capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli("visualize", ["maps", "-c", str(project / "cbam.yaml"), *words])
    assert stop.value.code == 2
    assert "must be a" in capsys.readouterr().err


def test_pictures_do_not_overwrite_each_other(tmp_path):
    from paddle_attention.cli.visualize import _targets

    images = [str(tmp_path / name) for name in ("a/7/x.png", "b/7/x.png", "b/7/x.bmp", "b_7/x.png")]
    options = types.SimpleNamespace(output="out", what="maps")
    found = _targets(images, options)
    assert len(set(found.values())) == 4
    assert found[images[0]].endswith("a_7_x.png")
    assert found[images[2]].endswith("b_7_x.bmp.png")


@pytest.mark.parametrize("scale", [1 / 255, 1.0])
def test_photographs_are_what_was_read(scale):
    many = 255 * scale
    normalize = {"scale": scale, "mean": [0.4 * many] * 3, "std": [0.2 * many] * 3, "order": ""}
    items = [{"NormalizeImage": normalize}, {"ToCHWImage": None}]
    image = np.random.RandomState(0).randint(0, 256, [6, 5, 3]).astype("uint8")
    restored = photographer(items)(build_transforms(items, "x")(image))
    np.testing.assert_allclose(restored, image / 255, atol=1e-5)


def test_summary_command(project, capsys):
    assert cli("summary", ["-c", str(project / "cbam.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("* attention CBAM" in line for line in lines)
    assert max(len(line) for line in lines if "INFO" not in line) <= 100


def test_titles_in_chinese(tmp_path, monkeypatch, log_lines, recwarn):
    """With a font of the system's; without one, a line says so and the picture is written all the same."""
    from matplotlib.font_manager import fontManager

    from paddle_attention.analysis import fonts

    def written():
        fonts.cjk_font.cache_clear()
        figure = pictures.draw_rows([("第一层", [])], "飞机")
        pictures.save(figure, str(tmp_path / "a.png"))
        return figure

    latin = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "matplotlib.font_manager.fontManager.ttflist", [*latin, types.SimpleNamespace(name="SimHei")]
        )
        assert fonts.cjk_font.__wrapped__() == "SimHei"
        patch.setattr("matplotlib.font_manager.fontManager.ttflist", latin)
        written()
        assert any("no font with Chinese characters is installed" in line for line in log_lines)
    figure = written()
    if fonts.cjk_font():
        assert figure.texts[0].get_fontfamily() == ["DejaVu Sans", fonts.cjk_font()]
        recwarn.clear()
        pictures.save(figure, str(tmp_path / "b.png"))
        assert not [w for w in recwarn if "Glyph" in str(w.message)]


# --- VisualDL --------------------------------------------------------------------------------


class Writer:
    """What a ``visualdl.LogWriter`` is given."""

    def __init__(self, logdir):
        self.given, self.logdir = [], str(logdir)

    def add_image(self, tag, img, step):
        assert img.dtype == np.uint8
        assert img.ndim == 3
        assert min(img.shape[:2]) >= 96
        self.given.append((tag, step))

    def add_histogram(self, tag, values, step):
        assert np.isfinite(values).all()
        self.given.append((tag, step))


@pytest.mark.parametrize("graph_fails", [False, True])
def test_attention_log(cbam, graph_fails, log_lines, tmp_path):
    (tmp_path / "file").touch()
    log, writer = (
        AttentionLog(IMAGES, [PHOTOGRAPH(i) for i in IMAGES]),
        Writer(tmp_path / "file" if graph_fails else tmp_path),
    )
    for epoch in (1, 2):
        log(writer, cbam, epoch)
    tags = [tag for tag, _ in writer.given]
    assert tags.count("photo/0") == 1
    assert len(list(tmp_path.glob("vdlgraph.*.log"))) == (not graph_fails)
    assert any("no graph for VisualDL: " in line for line in log_lines) == graph_fails
    for name in [f"stages.{s}.{b}.bn2.attention CBAM" for s in range(3) for b in range(3)]:
        assert writer.given.count((f"gates/{name} channel", 2)) == 1
        assert writer.given.count((f"maps/{name} spatial/1", 2)) == 1


def test_graph_for_visualdl(cbam):
    """Operations in the layers they run in; every edge joins two nodes of one layer, or one and its layer."""
    graph = visualdl_graph(trace_flow(cbam, [1, *IMAGES.shape[1:]]))
    nodes = {node["name"]: node for node in graph["nodes"]}
    assert nodes["/"]["children_node"][0] == "/input_0"
    gate = nodes["/stages/0/0/bn2/attention/channel_gate"]
    assert {nodes[name]["type"] for name in gate["children_node"]} >= {"avg_pool", "fc1", "relu", "sigmoid"}
    for name, node in nodes.items():
        assert all(nodes[child]["parent_node"] == name for child in node["children_node"])
        assert node["is_leaf_node"] == (not node["children_node"])
        assert node["edge_output_nodes"] == [e["to_node"] for e in graph["edges"] if e["from_node"] == name]
    for edge in graph["edges"]:
        start, end = nodes[edge["from_node"]], nodes[edge["to_node"]]
        assert (
            start["parent_node"] in (end["parent_node"], end["name"]) or end["parent_node"] == start["name"]
        )
        assert edge["vars"]
    joined = {(edge["from_node"], edge["to_node"]) for edge in graph["edges"]}
    assert joined >= {("/input_0", "/stem"), ("/stem", "/stages")}
    ends = [name for name, node in nodes.items() if node["is_leaf_node"] and not node["edge_output_nodes"]]
    assert [nodes[name]["type"] for name in ends] == ["output"]
    # From the input every operation is reached along the tensors.
    reached, waiting = set(), ["/input_0"]
    tensors = {tensor["from_node"]: tensor for tensor in graph["vars"]}
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += tensors[name]["to_nodes"]
    assert reached == {name for name, node in nodes.items() if node["is_leaf_node"]}
    assert json.loads(json.dumps(graph)) == graph


def test_training_logs_attention(project, capsys, tmp_path):
    """One key, and VisualDL's own reader finds it all."""
    visualdl = pytest.importorskip("visualdl")
    config = yaml.safe_load((project / "cbam.yaml").read_text())
    dataset = config["DataLoader"]["Eval"]["dataset"]
    few = tmp_path / "few.txt"
    lines = Path(dataset["cls_label_path"]).read_text(encoding="utf-8").splitlines()[:8]
    few.write_text("\n".join(lines) + "\n")
    dataset.update(cls_label_path=str(few), transform_ops=config["Infer"]["transforms"][:-1])
    config["DataLoader"]["Train"] = config["DataLoader"]["Eval"]
    config["Global"].update(epochs=1, output_dir=str(tmp_path / "out"), use_visualdl=True, log_attention=2)
    config["Global"].pop("pretrained_model")
    config["Loss"] = {"Train": [{"CELoss": {"weight": 1.0}}]}
    config["Optimizer"] = {"name": "SGD", "lr": {"name": "ConstLR", "learning_rate": 0.01}}
    config["Metric"] = {"Eval": [{"TopkAcc": {"topk": [1]}}]}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert cli("train", ["-c", str(path)]) == 0
    assert len(list((tmp_path / "out").glob("vdlgraph*"))) == 1
    (file,) = (tmp_path / "out").glob("vdlrecords*")
    tags = visualdl.LogReader(file_path=str(file)).tags()
    assert {"scalar", "histogram", "image"} <= set(tags.values())
    assert any(tag.endswith("maps%stages.2.2.bn2.attention CBAM spatial%1") for tag in tags), sorted(tags)[
        -3:
    ]
    capsys.readouterr()
    for override, message in (
        ("Global.use_visualdl=False", "needs Global.use_visualdl: True"),
        ("Arch.attention=[]", "no attention that can show maps"),
    ):
        assert cli("train", ["-c", str(path), "-o", override]) == 2
        assert f"Global.log_attention: {message}" in capsys.readouterr().err.replace("the network has ", "")
