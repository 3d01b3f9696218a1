"""Standard output and error that are closed, full, or read by nobody any more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddle_attention import files

ROOT = Path(__file__).parent.parent
YAML = ROOT / "ppcls_configs/quick_start/se_resnet18_digits.yaml"


@pytest.fixture
def command(workspace, tmp_path):
    """A training of a few steps, for a shell."""
    digits = workspace.path / "dataset" / "digits"
    lines = (digits / "train_list.txt").read_text().splitlines()[:48]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    overrides = (
        "Global.epochs=1",
        f"Global.output_dir={tmp_path}/run",
        "Global.eval_during_train=False",
        "Global.print_batch_step=1",
        f"DataLoader.Train.dataset.cls_label_path={tmp_path}/list.txt",
        "DataLoader.Train.sampler.batch_size=8",
    )
    options = " ".join(f"-o {o}" for o in overrides)
    return f"{sys.executable} {ROOT}/tools/train.py -c {YAML} {options}"


@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "2>&1 | head -1", ">/dev/full 2>/dev/full"])
def test_a_training_goes_on_without_them(workspace, command, tmp_path, streams):
    done = subprocess.run(
        ["bash", "-c", f"{command} {streams}; exit ${{PIPESTATUS[0]}}"],
        cwd=workspace.path,
        env=workspace.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert files.verify(str(tmp_path / "run/latest"))["epoch"] == 1
    assert "checkpoints:" in (tmp_path / "run/train.log").read_text()


def end(group, beginning, number):
    """Send a signal to the processes of a group whose command begins so."""
    listing = subprocess.run(
        ["ps", "-o", "pid=,args=", "-g", str(group.pid)], capture_output=True, text=True, check=True
    ).stdout
    for line in listing.splitlines():
        pid, _, command = line.strip().partition(" ")
        if command.startswith(beginning):
            os.kill(int(pid), number)


def test_interrupted_together_with_its_reader(workspace, command, tmp_path):
    """Ctrl-C ends ``tee`` as well."""
    process = subprocess.Popen(
        ["bash", "-c", f"{command} -o Global.epochs=200 2>&1 | tee log > /dev/null; exit ${{PIPESTATUS[0]}}"],
        cwd=workspace.path,
        env=workspace.environment,
        start_new_session=True,
    )
    log = tmp_path / "run/train.log"
    deadline = time.monotonic() + 200
    while not (log.exists() and "[Iter: 1/" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    end(process, "tee ", signal.SIGKILL)
    end(process, f"{sys.executable} {ROOT}/tools/train.py", signal.SIGINT)
    assert process.wait(100) == 130
    assert files.verify(str(tmp_path / "run/latest"))["step"] > 0
    assert "stopped by SIGINT after" in log.read_text().splitlines()[-1]


def test_a_reader_that_has_enough(workspace):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m paddle_attention list | true; exit ${{PIPESTATUS[0]}}"],
        cwd=workspace.path,
        env=workspace.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, 141)
    assert "rror" not in done.stderr, done.stderr


@pytest.mark.parametrize(("streams", "status"), [(">/dev/full", 2), ("| true", 141)])
def test_an_evaluation_does_not_lose_its_result_in_silence(workspace, command, tmp_path, streams, status):
    def run(text):
        return subprocess.run(
            ["bash", "-c", text],
            cwd=workspace.path,
            env=workspace.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert run(command).returncode == 0
    evaluate = command.replace("tools/train.py", "tools/eval.py")
    done = run(
        f"{evaluate} -o Global.pretrained_model={tmp_path}/run/latest {streams}; exit ${{PIPESTATUS[0]}}"
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert status != 2 or "No space left on device" in done.stderr.splitlines()[-1]
