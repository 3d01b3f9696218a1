"""The command that compares networks: a plan, its runs, the table; and the statistics behind it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paddle_attention.analysis import paired_interval

ROOT = Path(__file__).parent.parent
TOOL = Path(__file__).parent.parent / "tools" / "ablation.py"


@pytest.mark.parametrize("n", [2, 3, 5, 16, 30])
def test_the_interval_is_students(n):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.RandomState(n).randn(n)
    mean, half = paired_interval(list(values))
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=2e-3, abs=2e-3)


def test_one_difference_has_no_interval():
    assert paired_interval([0.5]) == (0.5, None)
    for wrong in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="needs finite differences"):
            paired_interval(wrong)


def test_plan_runs_and_table(workspace, tmp_path):
    """From the digits to a table; a second call does nothing again."""
    folder = tmp_path / "ablation"
    names = ["baseline", "cbam_notes"]
    common = ("--output", folder, "--jobs", "2")
    plan = ("--data", "dataset/digits", "--size", "8", "--images", "200", "--epochs", "1", "--seeds", "2")
    done = workspace.run(TOOL, *common, *plan, "--networks", *names, "--plan", "--dry-run").stdout
    assert "2 networks x 2 seeds: 200 images, 1 epochs each" in done
    assert not (folder / "all.log").exists()
    done = workspace.run(TOOL, *common).stdout
    assert len(re.findall(r"seed \d: top1 0\.\d{4}", done)) == 4
    assert "0 failed" in done
    results = [json.loads(p.read_text()) for p in (folder / "runs").glob("*.json")]
    assert {(r["network"], r["seed"]) for r in results} == {(n, s) for n in names for s in (0, 1)}
    assert all(0 < r["top1"] <= r["top5"] <= 1 for r in results)
    assert len((folder / "work/cbam_notes-0/train_list.txt").read_text().splitlines()) == 200
    again = workspace.run(TOOL, *common).stdout
    assert "top1" not in again
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ablation -->\n<!-- end of ablation -->\nafter\n", encoding="utf-8")
    done = workspace.run(TOOL, *common, "--write", page).stdout
    assert "4 of 4 runs are done" in done
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| ResNet-20", "| + CBAM（笔记写法）"]
    assert " ± " in rows[2]


def test_runs_end_when_the_command_is_killed(workspace, tmp_path):
    """Also by kill -9: they save their state, and the command goes on from it."""
    folder = tmp_path / "ablation"
    plan = ("--data", "dataset/digits", "--size", "8", "--images", "1000", "--epochs", "200", "--seeds", "1")
    workspace.run(TOOL, "--output", folder, *plan, "--networks", "baseline", "--plan", "--dry-run")
    command = [sys.executable, TOOL, "--output", folder, "--jobs", "1"]
    parent = subprocess.Popen(
        command, cwd=workspace.path, env=workspace.environment, stdout=subprocess.DEVNULL
    )
    log = folder / "work" / "baseline-0" / "train.log"
    deadline = time.monotonic() + 120
    while not (log.exists() and "Epoch 2/200" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    parent.kill()
    parent.wait()
    said = folder / "logs" / "baseline-0.txt"
    while "stopped by SIGTERM after epoch" not in said.read_text():
        assert time.monotonic() < deadline, said.read_text()[-500:]
        time.sleep(0.2)
    assert "Traceback" not in said.read_text()
    assert (log.parent / "latest.pdparams").exists()


def test_few_seeds_are_no_verdict(workspace, tmp_path):
    """Two differences that happen to be alike make a short interval."""
    (tmp_path / "runs").mkdir()
    plan = json.loads((ROOT / "docs/data/ablation/plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    recipe = {key: plan[key] for key in ("images", "epochs", "size")}
    gains = {
        "baseline": [0, 0, 0],
        "se": [0.01, 0.011],
        "eca": [0.01, 0.011, 0.012],
        "cbam": [-0.02, 0.03, 0.01],
    }
    for name, differences in gains.items():
        for seed, gain in enumerate(differences):
            run = {"network": name, "seed": seed, **recipe, "top1": 0.6 + gain, "top5": 0.9, "loss": 1.0}
            (tmp_path / "runs" / f"{name}-{seed}.json").write_text(json.dumps(run))
    lines = workspace.run(TOOL, "--output", tmp_path, "--status").stdout.splitlines()
    cells = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[5] for line in lines if line.startswith("| +")
    }
    assert cells == {"+ SE": "2 个种子，不能判断", "+ ECA": "更好", "+ CBAM": "没有可分辨的差别"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plan", "--data", "nowhere"], "there is no train_list.txt"),
        ([], "has no plan.json; make one with --plan"),
        (["--one", "se", "0"], "has no plan.json; make one with --plan"),
        (["--dry-run"], "--dry-run belongs to --plan"),
        (["--epochs", "3"], "--epochs belongs to --plan"),
        (["--plan", "--epochs", "3"], "--images and --epochs go together"),
        (["--jobs", "0"], "must be a positive integer, but got '0'"),
        (["--plan", "--hours", "nan"], "must be a number of hours, but got 'nan'"),
    ],
)
def test_mistakes(workspace, tmp_path, words, message):
    done = workspace.run(TOOL, "--output", tmp_path / "none", *words, check=False)
    assert done.returncode == 2
    assert message in done.stdout.splitlines()[-1]


def test_results_of_another_recipe_are_left_out(workspace, tmp_path):
    folder = tmp_path / "ablation"
    (folder / "runs").mkdir(parents=True)
    plan = {"data": ".", "networks": ["se"], "seeds": [0, 1], "images": 10, "epochs": 2, "size": 8}
    facts = {"se": {"seconds": 1.0, "params": 1000, "macs": 1e6}}
    (folder / "plan.json").write_text(json.dumps({**plan, "facts": facts}))
    for seed, epochs in ((0, 2), (1, 60)):
        result = {"network": "se", "seed": seed, "images": 10, "epochs": epochs, "size": 8, "top1": 0.5}
        (folder / f"runs/se-{seed}.json").write_text(json.dumps(result))
    done = workspace.run(TOOL, "--output", folder, "--status").stdout
    assert "1 of 2 runs are done" in done
    assert "left out, of another plan: se-1.json" in done
    (folder / "plan.json").write_text(json.dumps(plan))
    done = workspace.run(TOOL, "--output", folder, "--status", check=False)
    assert done.returncode == 2
    assert "has no 'facts'" in done.stdout
