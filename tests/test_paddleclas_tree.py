"""With a real PaddleClas source tree: its own tools, and agreement with the embedded engine.

``PADDLECLAS_HOME`` names the tree. A tree of 2022 (as the one inside the paddlex
wheel) needs Paddle 2; HEAD runs on Paddle 2 and 3.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from paddleclas_home import ENVIRONMENT, HOME, OLD, needs_paddleclas
from verify_paddleclas import averages, classes_inferred, classes_predicted, deploy_config

ROOT = Path(__file__).parent.parent

pytestmark = needs_paddleclas


@pytest.fixture(scope="module", params=["se", "cbam"])
def run(request, workspace):
    """A YAML of two epochs on 192 digits, and the directory for its files."""
    digits = workspace.path / "dataset" / "digits"
    for part, n in (("train", 192), ("test", 100)):
        lines = (digits / f"{part}_list.txt").read_text().splitlines()
        (digits / f"{part}_{n}.txt").write_text("\n".join(lines[:: len(lines) // n][:n]) + "\n")
    name = request.param
    config = yaml.safe_load((ROOT / f"ppcls_configs/quick_start/{name}_resnet18_digits.yaml").read_text())
    config["Global"].update(
        epochs=2,
        save_interval=1,
        output_dir=f"output/tree_{name}",
        save_inference_dir=f"output/tree_{name}/inference",
    )
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = str(digits / "train_192.txt")
    config["DataLoader"]["Eval"]["dataset"]["cls_label_path"] = str(digits / "test_100.txt")
    config["Optimizer"]["lr"]["learning_rate"] = 0.02
    path = workspace.path / f"tree_{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, config


def checkpoint(config, name="latest"):
    directory = Path(config["Global"]["output_dir"])
    return str(directory / config["Arch"]["name"] / name if OLD else directory / name)


def predicted(text):
    """``{file: best class}`` as this library's tools/predict.py prints them."""
    return {k: int(v) for k, v in re.findall(r"^(?:\S*/)?(\S+\.bmp): digit_(\d) ", text, re.M)}


def ways(workspace, way):
    """A function that runs one of PaddleClas' tools in the given way."""
    if way == "tools":
        return lambda tool, config, *overrides: workspace.tool(
            tool, config, *overrides, PADDLECLAS_HOME=HOME, **ENVIRONMENT
        )

    def call(tool, config, *overrides):
        options = [word for override in overrides for word in ("-o", override)]
        if way == "run":
            command = ("-m", "paddle_attention", "run", f"{HOME}/tools/{tool}.py")
        else:
            command = (f"{way}/tools/{tool}.py",)
        return workspace.run(*command, "-c", config, *options, **ENVIRONMENT)

    return call


@pytest.fixture(scope="module")
def installed(tmp_path_factory, workspace):
    """A copy of the tree after ``install``."""
    copy = tmp_path_factory.mktemp("installed") / "PaddleClas"
    copy.mkdir()
    for part in ("ppcls", "tools", "deploy"):
        shutil.copytree(Path(HOME) / part, copy / part, symlinks=True)
    workspace.run("-m", "paddle_attention", "install", copy)
    return copy


@pytest.mark.parametrize("way", ["tools", "run", "install"])
def test_paddleclas_own_tools(workspace, run, way, installed):
    """Train, evaluate, infer and export with PaddleClas' scripts, started in each of the three ways."""
    path, config = run
    if way == "install" and "cbam" in path.name:
        pytest.skip("one network is enough for the installed copy")
    call = ways(workspace, installed if way == "install" else way)
    log = call("train", path).stdout
    losses = [float(x) for x in re.findall(r"\[Train\]\[Epoch \d/2\]\[Avg\].*?CELoss: ([\d.]+)", log)]
    assert losses[-1] < losses[0]  # an old PaddleClas logs every line twice
    weights = f"Global.pretrained_model={checkpoint(config)}"
    theirs = averages(call("eval", path, weights).stdout)
    assert theirs == averages(log)

    # The embedded engine agrees: top-1 exactly, loss to 1e-5.
    ours = averages(workspace.tool("eval", path, weights).stdout)
    assert ours["top1"] == theirs["top1"]
    assert abs(ours["loss"] - theirs["loss"]) <= 1.1e-5

    images = "Infer.infer_imgs=./dataset/digits/4"
    inferred = classes_inferred(workspace.tool("infer", path, weights, images).stdout)
    assert classes_inferred(call("infer", path, weights, images).stdout) == inferred
    directory = workspace.path / config["Global"]["save_inference_dir"]
    shutil.rmtree(directory, ignore_errors=True)
    call("export_model", path, weights)
    assert (directory / "inference.pdiparams").exists()
    assert predicted(workspace.tool("predict", path, images).stdout) == inferred


def test_their_engine_evaluates_our_checkpoints(workspace, run):
    path, config = run
    directory = config["Global"]["output_dir"] + "_ours"
    log = workspace.tool("train", path, f"Global.output_dir={directory}").stdout
    weights = f"Global.pretrained_model={directory}/latest"
    theirs = averages(ways(workspace, "tools")("eval", path, weights).stdout)
    ours = averages(log)
    assert theirs["top1"] == ours["top1"]
    assert abs(theirs["loss"] - ours["loss"]) <= 1.1e-5
    # and continues to train from them, as ours does from its own
    more = (f"Global.checkpoints={directory}/latest", "Global.epochs=3", f"Global.output_dir={directory}_3")
    resumed = ways(workspace, "tools")("train", path, *more).stdout
    assert "[Train][Epoch 3/3]" in resumed
    assert "[Train][Epoch 2/3]" not in resumed


def test_deploy_predict_cls(workspace, run):
    """PaddleClas' own predictor runs what our export_model wrote."""
    path, config = run
    directory = config["Global"]["output_dir"] + "_deploy"
    workspace.tool("train", path, f"Global.output_dir={directory}", "Global.epochs=1")
    target = workspace.path / directory / "inference"
    workspace.tool(
        "export_model",
        path,
        f"Global.pretrained_model={directory}/latest",
        f"Global.save_inference_dir={target}",
    )
    images = workspace.path / "dataset/digits/5"
    normalise = config["Infer"]["transforms"][2]["NormalizeImage"]
    settings = deploy_config(str(images), str(target), 32, normalise)
    settings["PostProcess"]["Topk"]["class_id_map_file"] = str(
        workspace.path / "dataset/digits/label_list.txt"
    )
    settings_file = workspace.path / "deploy.yaml"
    settings_file.write_text(yaml.safe_dump(settings))
    script = (f"{HOME}/deploy/python/predict_cls.py", "-c", settings_file)
    if not OLD:  # HEAD's script needs repairs, on Paddle 2 and 3 other ones
        script = ("-m", "paddle_attention", "run", *script)
    done = workspace.run(*script, **ENVIRONMENT)
    theirs = classes_predicted(done.stdout)
    overrides = (f"Global.save_inference_dir={target}", f"Infer.infer_imgs={images}")
    ours = predicted(workspace.tool("predict", path, *overrides).stdout)
    assert len(theirs) == len(ours) > 170
    assert theirs == ours


@pytest.mark.slow
def test_two_processes(workspace, run):
    """PaddleClas' own training and evaluation under Paddle's launcher, on the CPU."""
    path, config = run
    command = shutil.which("paddle_attention", path=str(Path(sys.executable).parent))
    done = workspace.launch(
        command, "run", f"{HOME}/tools/train.py", "-c", path, "-o", "Global.epochs=1", **ENVIRONMENT
    )
    assert "top1" in averages(done.stdout)
    weights = f"Global.pretrained_model={checkpoint(config)}"
    assert averages(workspace.tool("eval", path, weights).stdout)["top5"] > 0
