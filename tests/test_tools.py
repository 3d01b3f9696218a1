"""The command-line tools, end to end on real digits with the embedded engine."""

import os
import re
from pathlib import Path

import pytest

from paddle_attention.cli import main as cli
from paddle_attention.cli.main import set_threads

ROOT = Path(__file__).parent.parent
CONFIGS = {name: ROOT / f"ppcls_configs/quick_start/{name}_resnet18_digits.yaml" for name in ("se", "cbam")}


def small(directory):
    """Overrides for a training of seconds: 320 images, two epochs, all outputs in ``directory``."""
    return (
        "Global.epochs=2",
        "Global.save_interval=-1",
        "DataLoader.Train.dataset.cls_label_path=./dataset/digits/few.txt",
        "Optimizer.lr.learning_rate=0.02",
        f"Global.output_dir={directory}",
        f"Global.save_inference_dir={directory}/inference",
    )


# One is enough for the fast suite: the other has the same tools.
@pytest.fixture(scope="module", params=["se", pytest.param("cbam", marks=pytest.mark.slow)])
def trained(request, workspace):
    """A trained digits network: its YAML, directory and the training's output."""
    digits = workspace.path / "dataset" / "digits"
    lines = (digits / "train_list.txt").read_text().splitlines()
    (digits / "few.txt").write_text("\n".join(lines[:320]) + "\n")
    directory = f"output/{request.param}"
    done = workspace.tool("train", CONFIGS[request.param], *small(directory))
    return CONFIGS[request.param], directory, done.stdout


def value(text, name):
    """The last average of ``name`` in evaluation log lines."""
    line = [x for x in text.splitlines() if "[Eval]" in x and "[Avg]" in x][-1]
    return re.search(rf"{name}: ([\d.]+)", line)[1]


def test_from_yaml_to_prediction(workspace, trained):
    config, directory, log = trained
    losses = [float(x) for x in re.findall(r"\[Train\]\[Epoch \d/2\]\[Avg\]CELoss: ([\d.]+)", log)]
    assert losses[1] < 0.8 * losses[0]
    assert "epoch 2/2: 100%" in log  # the progress bar
    assert f"checkpoints: {workspace.path}/{directory}" in log
    weights = f"Global.pretrained_model={directory}/latest"

    evaluated = workspace.tool("eval", config, *small(directory), weights).stdout
    for name in ("CELoss", "top1", "top5"):
        assert value(evaluated, name) == value(log, name)

    exported = workspace.tool("export_model", config, *small(directory), weights).stdout
    errors = [float(x) for x in re.findall(r"relative error (\S+)", exported)]
    assert len(errors) == 4
    assert max(errors) < 1e-4
    assert f"{workspace.path}/{directory}/inference" in exported

    images = "Infer.infer_imgs=./dataset/digits/6"
    inferred = workspace.tool("infer", config, *small(directory), weights, images).stdout
    found = re.findall(r"'class_ids': \[(\d+)[^}]*?'file_name': '([^']+)'", inferred)
    from_checkpoint = {name: digit for digit, name in found}
    predicted = workspace.tool("predict", config, *small(directory), images).stdout
    from_export = dict(re.findall(r"^(\S+\.bmp): digit_(\d) ", predicted, re.M))
    assert len(from_export) == len(list((workspace.path / "dataset/digits/6").iterdir())) > 170
    assert from_export == from_checkpoint


def test_checkpoint_of_another_network(workspace, trained):
    config, directory, _ = trained
    other = CONFIGS["cbam" if "se_" in str(config) else "se"]
    for tool in ("eval", "infer", "export_model"):
        done = workspace.tool(
            tool, other, *small("output/other"), f"Global.pretrained_model={directory}/latest", check=False
        )
        assert done.returncode == 2
        assert re.search(r"^error: .* does not fit ResNet: .* missing", done.stdout.splitlines()[-1])
    assert not (workspace.path / "output/other/inference/inference.pdiparams").exists()


# tool, overrides, part of the one-line message
MISTAKES = [
    ("train", ["Arch.name=SE_ResNet81"], "Arch.name: PaddleClas has no network 'SE_ResNet81'; did you mean"),
    (
        "train",
        ["Arch.clas_num=3"],
        "backbone ResNet18 takes no argument 'clas_num'; did you mean 'class_num'",
    ),
    ("train", ["Global.epohcs=3"], "Global.epohcs: key 'epohcs' is not supported"),
    ("train", ["Global.epochs"], "-o 'Global.epochs': an override is written key.subkey=value"),
    ("train", ["Global.device=gpu"], "this Paddle is built for CPU"),
    ("eval", [], "Global.pretrained_model: missing"),
    ("eval", ["Global.pretrained_model=./nowhere"], "there is no file './nowhere.pdparams'"),
    ("export_model", [], "Global.pretrained_model: missing"),
    ("predict", ["Global.save_inference_dir=./nowhere"], "'./nowhere' holds no exported model"),
]


@pytest.mark.parametrize(("tool", "overrides", "message"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_mistakes_are_one_line(workspace, tool, overrides, message):
    done = workspace.tool(tool, CONFIGS["se"], "Global.output_dir=output/mistakes", *overrides, check=False)
    if "built for CPU" in message and done.returncode != 2:
        pytest.skip("this Paddle has CUDA")
    assert done.returncode == 2
    last = done.stdout.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.stdout


def test_traceback_on_request(workspace):
    done = workspace.run(ROOT / "tools/train.py", "-c", "none.yaml", "--traceback", check=False)
    assert "there is no config file 'none.yaml'" in done.stdout
    assert "Traceback" in done.stdout


def test_threads(monkeypatch):
    """The choice is made before Paddle is imported, which would make it 1."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    set_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    set_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads()
    available = len(os.sched_getaffinity(0))
    assert os.environ["OMP_NUM_THREADS"] == str(available)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1000")
    set_threads()
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_threads_option(workspace):
    probe = (
        "import sys, os; from paddle_attention.cli import main;"
        "assert 'paddle' not in sys.modules;"
        "main('train', ['-c', 'none.yaml', '--threads', '3']);"
        "print(os.environ['OMP_NUM_THREADS'])"
    )
    assert workspace.run("-c", probe).stdout.splitlines()[-1] == "3"
    with pytest.raises(SystemExit):
        cli("train", ["-c", "x.yaml", "--threads", "0"])


@pytest.mark.slow
def test_two_processes(workspace, trained):
    """Data-parallel training on the CPU, evaluated on all images just once."""
    config, directory, _ = trained
    options = [w for o in (*small(directory + "_2"), "Global.epochs=1") for w in ("-o", o)]
    log = workspace.launch(ROOT / "tools/train.py", "-c", config, *options).stdout
    single = workspace.tool(
        "eval", config, *small(directory), f"Global.pretrained_model={directory}_2/latest"
    ).stdout
    for name in ("CELoss", "top1"):
        assert abs(float(value(single, name)) - float(value(log, name))) < 2e-5
