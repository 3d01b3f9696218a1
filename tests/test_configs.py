"""Every YAML of ppcls_configs: checked, built, run forward and exported."""

import subprocess
import sys
from pathlib import Path

import paddle
import pytest
import yaml

from paddle_attention import list_networks
from paddle_attention.config import find_config, shipped_configs
from paddle_attention.deploy import export_inference_model
from paddle_attention.engine import check_config
from paddle_attention.engine.data import SAMPLERS
from paddle_attention.engine.datasets import DATASETS
from paddle_attention.engine.losses import CombinedLoss
from paddle_attention.engine.optim import build_optimizer
from paddle_attention.engine.scores import build_metrics
from paddle_attention.preprocess import build_postprocess, build_transforms

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "ppcls_configs").rglob("*.yaml"))

# Built, run and exported; the other networks are in test_networks.py.
WHOLE = [
    *[f"Cifar10/{name}_resnet18.yaml" for name in ("cbam", "se")],
    "ImageNet/CBAM/cbam_resnet18.yaml",
    "ImageNet/SE/se_resnet50.yaml",
    *[f"quick_start/{name}_resnet18_digits.yaml" for name in ("cbam", "se")],
]


def test_every_config_is_one_the_engine_can_run(arch, monkeypatch):
    from paddle_attention import ppcls

    monkeypatch.chdir(ROOT)
    names = []
    for path in CONFIGS:
        config = ppcls.load_config(str(path))
        for mode in ("train", "eval", "infer", "export", "predict"):
            check_config(config, mode)
        size = config["Global"]["image_shape"][1]
        for part in ("Train", "Eval"):
            section = config["DataLoader"][part]
            build_transforms(section["dataset"]["transform_ops"], part)
            CombinedLoss(config["Loss"][part], part)
        crops = [op["CropImage"]["size"] for op in config["Infer"]["transforms"] if "CropImage" in op]
        assert crops in ([size], [])
        _, schedule = build_optimizer(config, paddle.nn.Linear(1, 1), config["Global"]["epochs"], 10)
        assert schedule.last_lr <= 0.7
        names.append(config["Arch"]["name"])
    assert set(names) == set(list_networks())


@pytest.mark.parametrize("name", WHOLE)
def test_config(arch, name, tmp_path, workspace, monkeypatch):
    from paddle_attention import ppcls

    monkeypatch.chdir(ROOT)
    path = ROOT / "ppcls_configs" / name
    config = ppcls.load_config(str(path))
    for mode in ("train", "eval", "infer", "export", "predict"):
        check_config(config, mode)
    family = path.parent.name
    kind, depth = path.stem.split("_")[0], path.stem.split("_")[1].removeprefix("resnet")
    assert config["Arch"]["name"] == f"{kind.upper()}_ResNet{depth}"
    assert family in ("Cifar10", "quick_start") or family == kind.upper()

    # Every section is one the engine can build.
    for part in ("Train", "Eval"):
        section = config["DataLoader"][part]
        assert section["dataset"]["name"] in DATASETS
        assert section["sampler"]["name"] in SAMPLERS
        build_transforms(section["dataset"]["transform_ops"], part)
        (accuracy,) = build_metrics(config["Metric"][part], part)
        assert accuracy.topk == [1, 5]
        CombinedLoss(config["Loss"][part], part)
    preprocess = build_transforms(config["Infer"]["transforms"], "Infer")
    if family == "quick_start":
        monkeypatch.chdir(workspace.path)
        image = preprocess(Path(config["Infer"]["infer_imgs"]).read_bytes())
        assert list(image.shape) == config["Global"]["image_shape"]
    names = build_postprocess(config).names
    assert len(names) == config["Arch"]["class_num"]

    network = ppcls.build_network(config)
    epochs = config["Global"]["epochs"]
    _, schedule = build_optimizer(config, network, epochs, 10)
    rates = [schedule.last_lr] + [schedule.step() or schedule.last_lr for _ in range(10 * epochs - 1)]
    assert max(rates) > 10 * rates[-1] >= 0

    network.eval()
    # Untrained, SE-ResNet-152 multiplies a rounding error of its input by a million; calm every branch.
    for block in network.blocks:
        last = block.conv2 if hasattr(block, "conv2") else block.conv1
        last.bn.weight.set_value(last.bn.weight * 0.5)
    shape = config["Global"]["image_shape"]
    logits = network(paddle.randn([2, *shape]))
    assert logits.shape == [2, config["Arch"]["class_num"]]
    errors = export_inference_model(network, str(tmp_path), shape, batch_sizes=(2,), report=lambda line: None)
    assert max(errors.values()) < 1e-4


PAPERS = [
    # YAML, total batch of 4 cards, first rate, epochs: arXiv 1709.01507 section 5, 1807.06521 section 4.1
    ("ImageNet/SE/se_resnet50.yaml", 1024, 0.6, 100),
    ("ImageNet/CBAM/cbam_resnet50.yaml", 256, 0.1, 90),
]


@pytest.mark.parametrize(("name", "batch", "rate", "epochs"), PAPERS)
def test_hyper_parameters_of_the_papers(name, batch, rate, epochs):
    config = yaml.safe_load((ROOT / "ppcls_configs" / name).read_text())
    assert config["DataLoader"]["Train"]["sampler"]["batch_size"] * 4 == batch
    lr = config["Optimizer"]["lr"]
    assert lr["values"][0] == rate
    assert lr["decay_epochs"] == list(range(30, epochs, 30))
    assert all(abs(a / b - 10) < 1e-9 for a, b in zip(lr["values"], lr["values"][1:], strict=False))
    assert config["Global"]["epochs"] == epochs
    assert (config["Optimizer"]["momentum"], config["Optimizer"]["regularizer"]["coeff"]) == (0.9, 1e-4)


def test_configs_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    expected = str(ROOT / "ppcls_configs/ImageNet/SE/se_resnet50.yaml")
    for name in ("se_resnet50.yaml", "SE/se_resnet50.yaml", "ppcls_configs/ImageNet/SE/se_resnet50.yaml"):
        assert find_config(name) == expected
    (tmp_path / "se_resnet50.yaml").touch()
    assert find_config("se_resnet50.yaml") == "se_resnet50.yaml"  # what is there goes first
    with pytest.raises(
        FileNotFoundError, match=r"'se_resnet51.yaml'; did you mean 'se_resnet50.yaml'.* configs lists"
    ):
        find_config("se_resnet51.yaml")
    with pytest.raises(FileNotFoundError, match=r"there is no config file 'resnet50\.yaml'"):
        find_config("resnet50.yaml")
    with pytest.raises(
        ValueError, match=r"'se_resnet18\.yaml' is the name of several configs: .*Cifar10.*ImageNet"
    ):
        find_config("se_resnet18.yaml")
    assert list(shipped_configs()) == [p.relative_to(ROOT / "ppcls_configs").as_posix() for p in CONFIGS]


def test_the_command_lists_them_and_takes_their_names(workspace):
    listed = workspace.run("-m", "paddle_attention", "configs").stdout
    assert "ImageNet/SE/se_resnet50.yaml" in listed
    done = workspace.tool("train", "se_resnet18_digits.yaml", "Global.epochs=ten", check=False)
    assert done.returncode == 2
    assert "Global.epochs: must be an integer, but got 'ten' (-o 'Global.epochs=ten')" in done.stdout


def test_a_wheel_holds_them(tmp_path):
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        tmp_path,
        "--build-lib",
        tmp_path / "lib",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    code = "from paddle_attention.config import shipped_configs; print(len(shipped_configs()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "lib", check=True, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == str(len(CONFIGS))
