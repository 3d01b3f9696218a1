"""The networks in PaddleClas' own registry, built from the installed ``paddleclas``."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_attention import list_networks
from paddle_attention.checkpoint import load_weights, save_file
from paddle_attention.networks import BACKBONES
from paddle_attention.ppcls import bridge
from paddle_attention.ppcls.arguments import accepted_arguments


def count(model):
    return sum(p.size for p in model.parameters() if not p.stop_gradient)


# name, parameters in millions as printed by the papers' tables or counted by hand
SIZES = [("SE_ResNet50", 28.1), ("SE_ResNet18", 11.8), ("CBAM_ResNet50", 28.1)]


@pytest.mark.parametrize(("name", "millions"), SIZES)
def test_parameters(arch, name, millions):
    assert round(count(getattr(arch, name)()) / 1e6, 1) == millions


def test_se_adds_what_the_paper_says(arch):
    """2/r * sum of N_s * C_s^2 weights (section 5), and biases; +0.01 G multiply-adds (table 2)."""
    plain, model = arch.ResNet50(), arch.SE_ResNet50()
    stages = ((3, 256), (4, 512), (6, 1024), (3, 2048))
    weights = sum(n * 2 * c * c // 16 for n, c in stages)
    biases = sum(n * (c + c // 16) for n, c in stages)
    assert count(model) - count(plain) == weights + biases
    flops = [paddle.flops(m, [1, 3, 224, 224]) / 1e9 for m in (plain, model)]
    assert round(flops[0], 1) == 4.1
    assert round(flops[1] - flops[0], 2) == 0.01


def test_register_is_idempotent_and_complete(arch):
    assert bridge.register() == ["AttentionNet", *BACKBONES, *list_networks()]
    for name in list_networks():
        factory = getattr(arch, name)
        assert factory.__name__ == name
        assert getattr(arch.backbone, name) is factory


def test_register_does_not_replace(arch, monkeypatch):
    monkeypatch.setattr(arch, "SE_ResNet18", arch.ResNet18)
    with pytest.raises(ValueError, match="already has a network 'SE_ResNet18'"):
        bridge.register()


def test_rec_model(arch):
    """The networks serve as the backbone of a recognition model."""
    model = arch.RecModel(
        Backbone={"name": "SE_ResNet18"},
        BackboneStopLayer={"name": "flatten"},
        Neck={"name": "FC", "embedding_size": 512, "class_num": 16},
    )
    model.eval()
    assert model(paddle.zeros([2, 3, 64, 64]))["features"].shape == [2, 16]


def test_distillation_model(arch):
    """A teacher that is frozen and a student, both with attention; gradients reach the student's."""
    attention = [{"name": "SE", "reduction": 4}, {"name": "CBAM", "at": "stage", "stages": 4}]
    model = arch.DistillationModel(
        models=[
            {"Teacher": {"name": "SE_ResNet18", "class_num": 5}},
            {
                "Student": {
                    "name": "AttentionNet",
                    "backbone": "ResNet18",
                    "attention": attention,
                    "class_num": 5,
                }
            },
        ],
        freeze_params_list=[True, False],
    )
    model.train()
    y = model(paddle.randn([2, 3, 64, 64]))
    nn.functional.mse_loss(y["Student"], y["Teacher"]).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (
            name.startswith("Student.") and not parameter.stop_gradient
        ), name


def test_rec_model_trains(arch):
    """Neck and head of a recognition model behind attention; its evaluation returns features."""
    model = arch.RecModel(
        Backbone={"name": "AttentionNet", "backbone": "ResNet18", "attention": ["ECA"]},
        BackboneStopLayer={"name": "flatten"},
        Neck={"name": "FC", "embedding_size": 512, "class_num": 16},
        Head={"name": "ArcMargin", "embedding_size": 16, "class_num": 7, "margin": 0.15, "scale": 30},
    )
    model.train()
    y = model(paddle.randn([4, 3, 64, 64]), paddle.to_tensor([[0], [1], [2], [3]]))
    y["logits"].sum().backward()
    attention = [p for n, p in model.named_parameters() if ".attention." in n]
    assert len(attention) == 8
    assert all(p.grad is not None for p in attention)


def test_freezing_layers_of_the_backbone(arch):
    """``freeze_befor`` wraps a layer in another one; the attention in it goes on working."""
    model = arch.SE_ResNet18(class_num=3)
    model.eval()
    x = paddle.randn([2, 3, 64, 64])
    expected = model(x).numpy()
    assert model.freeze_befor("blocks[2]")
    assert np.array_equal(model(x).numpy(), expected)
    model.train()
    model(x).sum().backward()
    grads = {n: p.grad is not None for n, p in model.named_parameters() if ".attention." in n}
    assert not any(got for n, got in grads.items() if n.startswith(("blocks.0.", "blocks.1.")))
    assert all(got for n, got in grads.items() if n.startswith(("blocks.3.", "blocks.7.")))


def test_re_parameterisation_of_a_backbone(arch):
    """RepVGG folds its branches; the attention after each block stays and the output is the same."""
    model = arch.AttentionNet(backbone="RepVGG_A0", attention=[{"name": "SE", "at": "block"}], class_num=3)
    model.train()
    with paddle.no_grad():
        model(paddle.randn([4, 3, 64, 64]))
    model.eval()
    x = paddle.randn([2, 3, 64, 64])
    expected = model(x).numpy()
    keys = [k for k in model.state_dict() if ".attention." in k]
    convolutions = sum(isinstance(layer, nn.Conv2D) for layer in model.sublayers())
    for layer in model.sublayers():
        if hasattr(layer, "re_parameterize"):
            layer.re_parameterize()
    assert np.abs(model(x).numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    assert [k for k in model.state_dict() if ".attention." in k] == keys
    assert sum(isinstance(layer, nn.Conv2D) for layer in model.sublayers()) >= convolutions


def test_attention_net(arch):
    config = {
        "Arch": {
            "name": "AttentionNet",
            "class_num": 7,
            "backbone": {"name": "MobileNetV3_small_x1_0", "dropout_prob": 0.1},
            "attention": [
                {"name": "CBAM", "at": "stage", "stages": [2, 3], "reduction": 4},
                {"name": "SE", "at": "blocks.*.expand_conv", "stages": 4},
            ],
        },
        "Global": {},
    }
    model = bridge.build_network(config)
    assert model(paddle.randn([1, 3, 64, 64])).shape == [1, 7]
    kinds = [type(layer).__name__ for n, layer in model.named_sublayers() if n.endswith(".attention")]
    assert kinds == ["CBAM", "CBAM", "SEBlock", "SEBlock", "SEBlock"]
    assert config["Arch"]["name"] == "AttentionNet"  # the config is not changed


NET = {"backbone": {"name": "ResNet18"}, "attention": ["SE"]}
TEACHER = {"Teacher": {"name": "SE_ResNet18", "class_num": 10, "pretrained": False}}
BAD_ARCHS = [
    ({"name": "SE_ResNet18", "clas_num": 3}, "no argument 'clas_num'; did you mean 'class_num'"),
    ({"name": "SE_ResNet18", "freeze_befor": "x"}, "no argument 'freeze_befor'"),
    ({"name": "SE_ResNet19"}, "Arch.name: PaddleClas has no network 'SE_ResNet19'; did you mean 'SE_ResNet1"),
    ({"name": None}, "no network None"),
    ({"name": "AttentionNet", "attention": ["SE"]}, "Arch.backbone: must be .* but got None"),
    ({"name": "AttentionNet", "backbone": "ResNet18"}, "attention is missing"),
    ({"name": "AttentionNet", **NET, "backbone": {"name": "ResNt18"}}, "'ResNt18'; did you mean 'ResNet18'"),
    (
        {"name": "AttentionNet", **NET, "backbone": {"name": "ResNet18", "depth": 3}},
        "no argument 'depth'",
    ),
    (
        {"name": "AttentionNet", **NET, "class_num": 3, "backbone": {"name": "ResNet18", "class_num": 4}},
        "class_num is given twice, as 3 and as backbone.class_num=4",
    ),
    ({"name": "AttentionNet", **NET, "attention": [{"name": "SE", "att": 1}]}, "no argument 'att'"),
    ({"name": "SE_ResNet18", "stride_list": [1]}, "stride_list length should be 5"),
    (
        {"name": "AttentionNet", **NET, "attention": ["SE", {"name": "CBMA"}]},
        r"Arch.attention.1: unknown attention 'CBMA'; did you mean 'CBAM'",
    ),
    (
        {"name": "AttentionNet", **NET, "attention": [{"name": "SE", "stages": [5]}]},
        r"Arch.attention.0: stages=\[5\]: ResNet has no stage 5; its stages are 1 to 4",
    ),
    (
        {"name": "AttentionNet", **NET, "attention": [{"name": "CBAM", "kernel_size": [7]}]},
        r"Arch.attention.0: at layer 'blocks.0.conv1' with 64 channels: .*kernel_size must be .* but got \[7\]",
    ),
    (
        {"name": "AttentionNet", **NET, "attention": {"name": "SE", "reductoin": 2}},
        "Arch.attention: attention 'SE' takes no argument 'reductoin'; did you mean 'reduction'",
    ),
    (
        {"name": "AttentionNet", **NET, "attention": [{"name": "SE", 4: 2}]},
        "names of arguments are strings, but got 4",
    ),
    ({"name": "AttentionNet", **NET, "atention_lr_mult": 2}, "Arch.atention_lr_mult: .*'attention_lr_mult'"),
    ({"name": "AttentionNet", **NET, "attention_lr_mult": "2"}, "Arch.attention_lr_mult: .* but got '2'"),
    (
        {"name": "AttentionNet", **NET, "output_stride": 9},
        "Arch.output_stride must be 4, 8, 16 or 32, but got 9",
    ),
    ({"name": "AttentionNet", **NET, "stride_in_1x1": True}, "Arch.stride_in_1x1: ResNet has no bottleneck"),
    (
        {"name": "SE_ResNet18", "backbone": "ResNet50"},
        "Arch.backbone: SE_ResNet18 has its own; .* AttentionNet",
    ),
    (
        {"name": "SE_ResNet18", "reduction": 0},
        "Arch.attention.0: at layer .* reduction must be a positive integer",
    ),
    ({"name": "SE_ResNet18", "stages": 5}, "Arch.attention.0: .* has no stage 5"),
    ({"name": "SE_ResNet18", "reductoin": 2}, "Arch.reductoin: .*; did you mean 'reduction'"),
    ({"name": "SE_ResNet18", "attention": "SEE"}, "Arch.attention: unknown attention 'SEE'"),
    ({"name": "SE_ResNet18", "attention": "[{name: SEE}]"}, "Arch.attention.0: unknown attention 'SEE'"),
    ({"name": "SE_ResNet18", "attention": "[{name: SE"}, "Arch.attention is not a YAML file"),
    (
        {
            "name": "DistillationModel",
            "models": [TEACHER, {"Student": {"name": "SE_ResNet18", "reductoin": 4}}],
        },
        "^Arch.models.1.Student.reductoin: .*; did you mean 'reduction'",
    ),
    (
        {"name": "DistillationModel", "models": [TEACHER, {"Student": {"name": "SE_ResNet1"}}]},
        "^Arch.models.1.Student.name: PaddleClas has no network 'SE_ResNet1'; did you mean",
    ),
    (
        {"name": "DistillationModel", "models": [TEACHER, {"Student": {"class_num": 10}}]},
        "^Arch.models.1.Student.name: PaddleClas has no network None",
    ),
    (
        {
            "name": "RecModel",
            "Backbone": {"name": "SE_ResNet18", "attention": [{"name": "SE", "reductoin": 4}]},
        },
        "^Arch.Backbone.attention.0: attention 'SE' takes no argument 'reductoin'",
    ),
    ({"name": "ResNet18", "depht": 3}, "^Arch.depht: backbone ResNet18 takes no argument 'depht'"),
    (
        {"name": "ResNet18", "attention": "SE"},
        "^Arch.attention: ResNet18 is PaddleClas' own network .*name: AttentionNet",
    ),
    (
        {"name": "RecModel", "Backbone": {"name": "ResNet18", "attention": "SE"}},
        "^Arch.Backbone.attention: ResNet18 is",
    ),
    (
        {"name": "RecModel", "Backbone": {"name": "ResNet18", "class_nm": 3}},
        "^Arch.Backbone.class_nm: backbone ResNet18",
    ),
    (
        {"name": "RecModel", "Backbone": "ResNet18"},
        "^Arch.Backbone: must be a dict with a 'name', but got 'ResNet18'",
    ),
    (
        {"name": "RecModel", "Backbone": {"name": "ResNet18"}, "Hed": {"a": 1}},
        "^Arch.Hed: .*takes no argument 'Hed'",
    ),
    (
        {"name": "DistillationModel", "models": [TEACHER], "freeze_param_list": [True]},
        "^Arch.freeze_param_list: ",
    ),
    ({"name": "DistillationModel", "models": TEACHER}, "^Arch.models: must be a list of one network each"),
    (
        {"name": "DistillationModel", "models": [{"Teacher": "ResNet18"}]},
        "^Arch.models: must be a list of one network",
    ),
    (
        {
            "name": "DistillationModel",
            "models": [TEACHER, {"Student": {"name": "ResNet18", "attention": "SE"}}],
        },
        "^Arch.models.1.Student.attention: ResNet18 is PaddleClas' own",
    ),
    (
        {"name": "NL_ResNet50", "stages": [3]},
        "^Arch.stages: NL_ResNet50 has 2 attentions, each with a place of its own",
    ),
    ({"name": "SE_ResNet18", "stage": 3}, "^Arch.stage: .* did you mean .*'stages'"),
    (
        {"name": "SE_ResNet50", "stride_in_1x1": "maybe"},
        "^Arch.stride_in_1x1: must be True or False, but got 'maybe'",
    ),
    ({"name": "SE_ResNet18", "input_shape": 64}, "input_shape must be"),
]


@pytest.mark.parametrize(("section", "message"), BAD_ARCHS, ids=[m for _, m in BAD_ARCHS])
def test_bad_archs(arch, section, message):
    with pytest.raises((ValueError, AssertionError), match=message):
        bridge.build_network({"Arch": section, "Global": {}})


def gates(network):
    return {n: x.fc1.weight.shape[0] for n, x in network.named_sublayers() if type(x).__name__ == "SEBlock"}


def test_named_networks_can_be_tuned(arch):
    def built(**section):
        return gates(bridge.build_network({"Arch": {"name": "SE_ResNet18", "class_num": 10, **section}}))

    assert set(built().values()) == {64 // 16, 128 // 16, 256 // 16, 512 // 16}
    found = built(reduction=4, stages=[3, 4])
    assert len(found) == 4
    assert set(found.values()) == {256 // 4, 512 // 4}
    assert len(built(at="stage", stages=-1)) == 1
    assert built(attention=[{"name": "SE", "hidden_channels": 3, "at": "block"}]) == {
        f"blocks.{i}.attention": 3 for i in range(8)
    }
    assert built(attention="[{name: SE, hidden_channels: 3, stages: 2}]") == {
        "blocks.2.conv1.attention": 3,
        "blocks.3.conv1.attention": 3,
    }


def test_keys_that_ask_for_nothing_are_warnings(arch, log_lines):
    """As drop_rate: 0 in PaddleClas' StarNet YAMLs."""
    for section in (
        {"name": "ResNet18"},
        {"name": "SE_ResNet18"},
        {"name": "AttentionNet", **NET, "attention": "SE"},
    ):
        bridge.build_network({"Arch": {**section, "class_num": 10, "drop_rate": 0}})
    assert [
        line for line in log_lines if "drop_rate: 0 has no effect: ResNet18 takes no such argument" in line
    ][2:]


def test_weights_that_cannot_be_fetched(arch, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("Download from https://example.com/ResNet18.pdparams failed. Retry limit reached")

    module = __import__(arch.ResNet18.__module__, fromlist=["x"])
    monkeypatch.setattr(module, "load_dygraph_pretrain", fail, raising=False)
    monkeypatch.setattr(module, "load_dygraph_pretrain_from_url", fail, raising=False)
    for name in ("ResNet18", "SE_ResNet18"):
        with pytest.raises(
            ValueError,
            match=r"^Arch.pretrained: the weights of .*ResNet18 could not be fetched from https://example",
        ) as caught:
            bridge.build_network({"Arch": {"name": name, "pretrained": True}})
        assert "pretrained: /path/to" in str(caught.value)


class Drops:
    def __init__(self, width=1, **kwargs):
        pass


class Forwards(Drops):
    def __init__(self, height=1, **kwargs):
        super().__init__(**kwargs)


class Picks(Drops):
    def __init__(self, depth=1, **kwargs):
        super().__init__(kwargs.pop("width", 1))
        self.extra = kwargs["extra"] if "fast" in kwargs else None


def test_accepted_arguments():
    def factory(pretrained=False, **kwargs):
        return Forwards(**kwargs)

    def closed(pretrained=False):
        return Forwards()

    def copies(**kwargs):
        config = kwargs.copy()
        fast = config.pop("fast")
        return Forwards(config.get("height"), fast=fast)

    def copies_and_forwards(**kwargs):
        config = kwargs.copy()
        return Forwards(config.pop("depth"), **config)

    assert accepted_arguments(factory, Forwards) == {"pretrained", "height", "width"}
    assert accepted_arguments(factory, Drops) == {"pretrained", "width"}
    assert accepted_arguments(factory, Picks) == {"pretrained", "depth", "width", "extra", "fast"}
    assert accepted_arguments(closed, Forwards) == {"pretrained"}
    assert accepted_arguments(copies, Forwards) == {"fast", "height"}
    assert accepted_arguments(copies_and_forwards, Forwards) == {"depth", "height", "width"}


class TestPretrained:
    """``pretrained: path`` loads the backbone's weights, strictly."""

    @pytest.fixture(scope="class")
    def weights(self, arch, tmp_path_factory):
        path = str(tmp_path_factory.mktemp("weights") / "ResNet18")
        plain = arch.ResNet18(class_num=5)
        save_file(plain.state_dict(), path + ".pdparams")
        return path, {k: v.numpy() for k, v in plain.state_dict().items()}

    @pytest.mark.parametrize("ending", ["", ".pdparams"])
    def test_loads(self, arch, weights, ending):
        path, expected = weights
        model = arch.SE_ResNet18(class_num=5, pretrained=path + ending)
        state = model.state_dict()
        assert all(np.array_equal(state[k].numpy(), v) for k, v in expected.items())

    def test_other_class_num(self, arch, weights):
        path, expected = weights
        state = arch.SE_ResNet18(class_num=3, pretrained=path).state_dict()
        for key, value in expected.items():
            if not key.startswith("fc."):
                assert np.array_equal(state[key].numpy(), value)
        assert state["fc.weight"].shape == [512, 3]

    def test_other_network(self, arch, weights):
        with pytest.raises(ValueError, match=r"does not fit ResNet: of \d+ tensors .* missing .* of another"):
            arch.SE_ResNet50(pretrained=weights[0])

    def test_no_file(self, arch):
        with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.pdparams'"):
            arch.SE_ResNet18(pretrained="nowhere")

    def test_backbone_file_into_the_whole_network(self, arch, weights):
        """As Global.pretrained_model of a training run does."""
        path, expected = weights
        model = arch.SE_ResNet18(class_num=5)
        with pytest.raises(ValueError, match=r"32 missing \(blocks.0.conv1.attention.fc1.weight"):
            load_weights(model, path)
        report = load_weights(model, path, skip_attention=True)
        assert (report.loaded, len(report.skipped_attention)) == (len(expected), 32)
        assert "32 of the attention layers" in str(report)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
    def test_broken_files(self, arch, tmp_path, weights, content):
        path = tmp_path / "broken.pdparams"
        if content is None:  # truncated
            content = Path(weights[0] + ".pdparams").read_bytes()[:100000]
        path.write_bytes(content)
        model = arch.ResNet18(class_num=5)
        before = model.fc.weight.numpy()
        with pytest.raises(ValueError, match=r"broken\.pdparams"):
            load_weights(model, str(path))
        assert np.array_equal(model.fc.weight.numpy(), before)


def test_only_the_bridge_imports_paddleclas():
    code = (
        "import paddle_attention.engine, paddle_attention.deploy, paddle_attention.insertion, sys;"
        "assert not {'ppcls', 'paddleclas'} & set(sys.modules);"
        "import paddle_attention.ppcls.backbones; assert 'ppcls' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- install, run ------------------------------------------------------------------------

LIST = """import inspect
from .resnet import ResNet18


# help whl get all the models' api
def get_apis():
    return [name for name, obj in globals().items() if inspect.isfunction(obj)]


__all__ = get_apis()
"""


@pytest.fixture
def checkout(tmp_path):
    """The skeleton of a PaddleClas checkout whose networks are the installed ones."""
    package = tmp_path / "PaddleClas" / "ppcls"
    (package / "arch" / "backbone").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "arch" / "__init__.py").write_text("from . import backbone\nfrom .backbone import *\n")
    (package / "arch" / "backbone" / "__init__.py").write_text(LIST)
    (package / "arch" / "backbone" / "resnet.py").write_text("def ResNet18(**kwargs):\n    return kwargs\n")
    tools = tmp_path / "PaddleClas" / "tools"
    tools.mkdir()
    (tools / "train.py").write_text(
        "import sys, helper, ppcls.arch\n"
        "print(sys.argv[1:], __name__, hasattr(ppcls.arch, 'SE_ResNet18'), ppcls.__file__)\n"
    )
    (tools / "helper.py").write_text("")
    return tmp_path / "PaddleClas"


def test_install_and_uninstall(workspace, checkout):
    path = checkout / "ppcls" / "arch" / "backbone" / "__init__.py"
    path.chmod(0o640)
    probe = "import ppcls.arch as a; print(a.SE_ResNet18.__name__, 'SE_ResNet18' in a.backbone.__all__)"
    command = ("-m", "paddle_attention", "install", checkout)
    assert workspace.run(*command).stdout.strip().endswith("installed")
    once = path.read_text()
    assert len(once.splitlines()) == len(LIST.splitlines()) + 1
    assert "already" in workspace.run(*command).stdout
    assert path.read_text() == once
    assert path.stat().st_mode & 0o777 == 0o640
    done = workspace.run("-c", probe, PYTHONPATH=f"{workspace.environment['PYTHONPATH']}:{checkout}")
    assert done.stdout.splitlines()[-1] == "SE_ResNet18 True"
    workspace.run("-m", "paddle_attention", "uninstall", checkout)
    assert path.read_text() == LIST
    assert "was not installed" in workspace.run("-m", "paddle_attention", "uninstall", checkout).stdout


def test_install_mistakes(workspace, checkout, tmp_path):
    done = workspace.run("-m", "paddle_attention", "install", tmp_path, check=False)
    assert done.returncode == 2
    assert "not a PaddleClas source tree" in done.stdout.splitlines()[-1]
    path = checkout / "ppcls" / "arch" / "backbone" / "__init__.py"
    taken = LIST.replace("ResNet18", "SE_ResNet18")
    path.write_text(taken)
    done = workspace.run("-m", "paddle_attention", "install", checkout, check=False)
    assert "already has SE_ResNet18, which would be replaced; nothing was changed" in done.stdout
    assert path.read_text() == taken
    path.write_text("__all__ = []\n")
    done = workspace.run("-m", "paddle_attention", "install", checkout, check=False)
    assert done.returncode == 2
    assert "nothing was changed" in done.stdout
    assert path.read_text() == "__all__ = []\n"


BAD_OVERRIDES = [
    (
        "Arch.attention.name=SE",
        r"Arch.attention is a list of 2; number its items from 0 to 1, as in Arch.attention.0",
    ),
    ("Arch.attention.2.name=SE", "Arch.attention is a list of 2"),
    ("Arch.backbone.name.x=SE", "Arch.backbone.name is 'ResNet18' and has no 'x' in it"),
    ("Archh.name=SE", "there is no section 'Archh'; did you mean 'Arch'"),
    ("Arch.name", "an override is written key.subkey=value"),
]


@pytest.mark.parametrize(("option", "message"), BAD_OVERRIDES)
def test_bad_overrides(arch, tmp_path, option, message):
    path = tmp_path / "a.yaml"
    path.write_text("Arch: {backbone: {name: ResNet18}, attention: [{name: SE}, {name: CBAM}]}\n")
    with pytest.raises(ValueError, match=f"^-o '{option}': .*{message}"):
        bridge.load_config(str(path), [option])
    config = bridge.load_config(str(path), ["Arch.attention.1.reduction=8", "Arch.backbone.class_num=3"])
    assert config["Arch"]["attention"][1]["reduction"] == 8


@pytest.mark.parametrize("text", ["a: [", "- 1", "just text"])
def test_files_that_are_no_config(arch, tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml (is not a YAML file|must hold sections)"):
        bridge.load_config(str(path))


def test_mistakes_show_before_paddleclas_starts(arch, workspace, checkout):
    """Its own tools would first read the data."""
    shutil.rmtree(checkout / "ppcls")
    (checkout / "ppcls").symlink_to(Path(sys.modules["ppcls"].__path__[0]))
    script = checkout / "tools" / "train.py"
    path = checkout / "a.yaml"
    path.write_text("Arch: {name: AttentionNet, backbone: ResNet18, attention: [{name: SE, reductoin: 4}]}\n")
    command = ("-m", "paddle_attention", "run", script, "-c", path)
    done = workspace.run(*command, check=False)
    assert done.returncode == 2
    assert "__main__" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        "error: Arch.attention.0: attention 'SE' takes no argument"
    )
    done = workspace.run(*command, "-o", "Global.freeze_backbone_epochs=1", check=False)
    assert "PaddleClas' own engine cannot do this" in done.stdout.splitlines()[-1]


def test_the_check_uses_nothing_up(arch, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("Arch: {name: SE_ResNet18, class_num: 3}\n")
    paddle.seed(5)
    expected = paddle.randn([3]).numpy()
    names = [nn.Conv2D(1, 1, 1).weight.name, nn.Conv2D(1, 1, 1).weight.name]
    paddle.seed(5)
    bridge.check_config_file(str(path), [])
    assert np.array_equal(paddle.randn([3]).numpy(), expected)
    number = [
        int(name.partition("_")[2].partition(".")[0]) for name in [*names, nn.Conv2D(1, 1, 1).weight.name]
    ]
    assert number[2] - number[1] == number[1] - number[0]


def test_run(workspace, checkout):
    script = checkout / "tools" / "train.py"
    (workspace.path / "a.yaml").write_text("Global: {}\n")
    done = workspace.run("-m", "paddle_attention", "run", script, "-c", "a.yaml", "-o", "Global.b=1")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("['-c', 'a.yaml', '-o', 'Global.b=1'] __main__ True")
    assert str(checkout) in last
    done = workspace.run("-m", "paddle_attention", "run", "tools/none.py", check=False)
    assert done.returncode == 2
    assert "no script 'tools/none.py'" in done.stdout


def test_paddleclas_can_be_imported_afterwards(workspace):
    """Its folder is on the path for ppcls' sake, and in it lies a paddleclas.py."""
    pytest.importorskip("paddleclas", reason="the extra 'ppcls' is not installed")
    code = (
        "from paddle_attention import ppcls; ppcls.register(); import paddleclas; print(paddleclas.__path__)"
    )
    assert "paddleclas" in workspace.run("-c", code).stdout.splitlines()[-1]
