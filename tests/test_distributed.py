"""Training in two processes on the CPU: the same result as in one, and the same on every rank."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from paddleclas_home import ENVIRONMENT, HOME, needs_paddleclas

from paddle_attention.checkpoint import read_state_dict

ROOT = Path(__file__).parent.parent
# Without batch normalisation, so that a batch of 16 is 2 batches of 8; attention on tokens.
TRANSFORMER = {
    "name": "AttentionNet",
    "class_num": 10,
    "backbone": {"name": "DeiT_tiny_patch16_224", "img_size": 32},
    "attention": [{"name": "SE", "reduction": 8}, {"name": "PAM", "at": "block", "blocks": 1}],
}
RESNET = {
    "name": "AttentionNet",
    "class_num": 10,
    "backbone": {"name": "ResNet18"},
    "attention": [{"name": "EMAU", "k": 8, "at": "stage", "stages": 3}],
}


def settings(workspace, name, arch, batch, steps):
    """A YAML that trains ``steps`` steps of ``batch`` images on every process; without shuffling."""
    config = yaml.safe_load((ROOT / "ppcls_configs/quick_start/se_resnet18_digits.yaml").read_text())
    digits = workspace.path / "dataset" / "digits"
    lines = (digits / "train_list.txt").read_text().splitlines()
    (digits / "steps.txt").write_text("\n".join(lines[:: len(lines) // 320][:320]) + "\n")
    config["Arch"] = arch
    config["Global"].update(epochs=steps * 16 // 320, output_dir=f"output/{name}", eval_during_train=False)
    config["Global"]["save_interval"] = 1
    train = config["DataLoader"]["Train"]
    train["dataset"]["cls_label_path"] = str(digits / "steps.txt")
    train["dataset"]["transform_ops"] = config["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    train["sampler"].update(batch_size=batch, shuffle=False)
    train["loader"]["num_workers"] = 0
    config["Optimizer"]["lr"] = {"name": "Cosine", "learning_rate": 0.01}
    path = workspace.path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def weights(workspace, name):
    directory = workspace.path / "output" / name
    found = [p for p in (directory / "latest.pdparams", *directory.glob("*/latest.pdparams")) if p.exists()]
    return {k: v.numpy() for k, v in read_state_dict(str(found[0])).items()}


def farthest(one, other):
    """Largest difference of two sets of weights, relative to the largest weight of each tensor."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[k] - other[k]).max() / max(np.abs(one[k]).max(), 1e-3)) for k in one)


def test_two_processes_are_one_of_twice_the_batch(workspace):
    """20 steps through tools/train.py."""
    tool = ROOT / "tools" / "train.py"
    log = workspace.run(tool, "-c", settings(workspace, "single", TRANSFORMER, 16, 20)).stdout
    path = settings(workspace, "double", TRANSFORMER, 8, 20)
    done = workspace.launch(tool, "-c", path, OMP_NUM_THREADS="1")
    assert "Iter: 0/20]" in done.stdout
    first, *_, average = (float(x) for x in re.findall(r"\[Train\].*?CELoss: ([\d.]+)", log))
    assert average < 0.95 * first  # it has learnt
    assert farthest(weights(workspace, "single"), weights(workspace, "double")) < 1e-4


RANKS = """
import sys
import numpy as np, paddle
from paddle_attention import ppcls
from paddle_attention.engine import Engine
paddle.distributed.init_parallel_env()
ppcls.find_paddleclas()
config = ppcls.load_config(sys.argv[1])
ppcls.init_logger()
engine = Engine(config, ppcls.build_network, "train")
engine.train()
state = {k: v.numpy() for k, v in engine.network.state_dict().items()}
np.savez(f"ranks_{paddle.distributed.get_rank()}.npz", **state)
"""


def test_ranks_agree(workspace):
    """After training, parameters and EMAU's bases, which move by themselves, are the same on every rank."""
    script = workspace.path / "ranks.py"
    script.write_text(RANKS)
    path = settings(workspace, "ranks", RESNET, 8, 20)
    workspace.launch(script, path, OMP_NUM_THREADS="1")
    first, second = (dict(np.load(workspace.path / f"ranks_{rank}.npz")) for rank in (0, 1))
    statistics = [k for k in first if k.endswith(("_mean", "_variance"))]
    assert all(np.array_equal(first[k], second[k]) for k in first if k not in statistics)
    assert [k for k in first if k.endswith("attention.mu")]
    # Those of a rank's own images are its own.
    assert any(not np.array_equal(first[k], second[k]) for k in statistics)


SKIPPED = RANKS.replace(
    "engine.train()",
    """
original, rank = engine.meters.loss, paddle.distributed.get_rank()

def spoiled(logits, label):
    loss = original(logits, label)
    return loss * float("nan") if rank == 1 and engine.position.step in (3, 4) else loss

engine.meters.loss = spoiled
engine.train()
assert engine.guard.skipped == 2, engine.guard.skipped
""",
)


def test_ranks_skip_together(workspace):
    """A loss that is not finite on one of them is a batch that none of them takes."""
    script = workspace.path / "skipped.py"
    script.write_text(SKIPPED)
    path = settings(workspace, "skipped", RESNET, 8, 20)
    config = yaml.safe_load(path.read_text())
    config["Global"]["nan_policy"] = 2
    path.write_text(yaml.safe_dump(config))
    workspace.launch(script, path, OMP_NUM_THREADS="1")
    first, second = (dict(np.load(workspace.path / f"ranks_{rank}.npz")) for rank in (0, 1))
    assert all(np.isfinite(v).all() for v in first.values())
    assert all(np.array_equal(first[k], second[k]) for k in first if not k.endswith(("_mean", "_variance")))


@pytest.mark.slow
@pytest.mark.parametrize("home", [pytest.param(HOME, marks=needs_paddleclas)], ids=["PADDLECLAS_HOME"])
def test_paddleclas_in_two_processes(workspace, home):
    """The same with PaddleClas' own engine, started by this library."""
    command = shutil.which("paddle_attention", path=str(Path(sys.executable).parent))
    script = (command, "run", f"{home}/tools/train.py", "-c")
    single = settings(workspace, "single_theirs", TRANSFORMER, 16, 20)
    workspace.run("-m", "paddle_attention", *script[1:], single, **ENVIRONMENT)
    double = settings(workspace, "double_theirs", TRANSFORMER, 8, 20)
    workspace.launch(*script, double, OMP_NUM_THREADS="1", **ENVIRONMENT)
    assert farthest(weights(workspace, "single_theirs"), weights(workspace, "double_theirs")) < 1e-4
