"""Long runs: descriptors, threads and memory must stay what they were."""

import os
import shutil
import time
from pathlib import Path

from .runs import Row

_GROWTH = 1.08  # of memory, from the first third to the last
_LEAST = 30  # looks, below which nothing can be said


def _usage(pid):
    """``(descriptors, threads, kB of memory)`` of a process, or None."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0])
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), memory
    except (OSError, IndexError):
        return None


def _watch(child, begun, timeout):
    """Looks at a child from the moment its output has ``begun``, a pattern, and its exit status."""
    marks, deadline = [], time.monotonic() + timeout
    child.wait_for(begun)
    while time.monotonic() < deadline:
        if (mark := _usage(child.pid)) is not None:
            marks.append(mark)
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            return marks, os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return marks, child.wait(1)


def require_flat(marks):
    """Raise if the last third of the looks shows more of anything than the first; returns what to print."""
    if len(marks) < _LEAST:
        raise AssertionError(f"only {len(marks)} looks")
    third = len(marks) // 3
    first, last = (
        [max(mark[i] for mark in part) for i in range(3)] for part in (marks[:third], marks[-third:])
    )
    for what, early, late in zip(("descriptors", "threads"), first, last, strict=False):
        if late > early + 1:
            raise AssertionError(f"{what}: {early} early, {late} late")
    if last[2] > first[2] * _GROWTH:
        raise AssertionError(f"memory: {first[2]} kB early, {last[2]} kB late")
    return f"{last[2] / first[2]:.3f} of the early memory, {last[1]} threads, {last[0]} descriptors"


def epochs(workshop, number):
    """Short epochs with reading processes and evaluation."""
    row = Row(f"{number} epochs with 2 reading processes: descriptors, threads, memory")
    loaders = workshop.config()["DataLoader"]
    for part in ("Train", "Eval"):
        loaders[part]["loader"]["num_workers"] = 2
    run = workshop.new_run(
        DataLoader=loaders,
        Global={"epochs": number, "save_steps": None, "save_interval": -1, "eval_interval": 2},
    )
    with row.attempt():
        child = run.start()
        # Both loaders keep their processes after the first evaluation.
        marks, status = _watch(child, r"\[Eval\]\[Epoch \d+\]\[Avg\]", 3600)
        assert status == 0, child.output()[-300:]
        row.lost = require_flat(marks)
    return row


def predictions(workshop, number):
    """``tools/predict.py`` on a folder."""
    row = Row(f"{number} predictions by tools/predict.py: descriptors, threads, memory")
    run = workshop.new_run(Global={"epochs": 1})
    run.finish()
    run.tool("export_model", f"Global.pretrained_model={run.output}/latest")
    images = run.folder / "images"
    images.mkdir()
    sources = sorted(workshop.digits.glob("*/*.bmp"))
    for i in range(number):
        shutil.copyfile(sources[i % len(sources)], images / f"{i}.bmp")
    with row.attempt():
        child = run.start(None, "predict", f"Infer.infer_imgs={images}", "Infer.batch_size=4")
        marks, status = _watch(child, r"\.bmp: ", 1800)
        assert status == 0, child.output()[-300:]
        assert child.output().count(".bmp: ") == number
        row.lost = require_flat(marks)
    return row


def all_endurance(workshop, long):
    """All rows of this module."""
    yield epochs(workshop, 200 if long else 25)
    yield predictions(workshop, 10_000 if long else 1500)
