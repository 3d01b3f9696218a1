"""Long runs: descriptors, threads and memory must stay what they were."""

import os
import shutil
import time
from pathlib import Path

from .runs import Row

_GROWTH = 1.08  # of memory, from a quarter of the run on


def _usage(pid):
    """``(descriptors, threads, kB of memory)`` of a process, or None."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0])
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), memory
    except (OSError, IndexError):
        return None


def _watch(child, timeout):
    """Usage over the life of a child."""
    marks, deadline = [], time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (mark := _usage(child.pid)) is None:
            break
        marks.append(mark)
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            return marks, os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return marks, child.wait(1)


def _require_flat(marks):
    late = marks[len(marks) // 4 : -5]
    assert len(late) > 10, f"only {len(marks)} looks"
    for index, what in enumerate(("descriptors", "threads")):
        values = [mark[index] for mark in late]
        first, last = max(values[: len(values) // 3]), max(values[-len(values) // 3 :])
        assert last <= first + 1, f"{what}: {first} early, {last} late"
    memory = [mark[2] for mark in late]
    first, last = max(memory[: len(memory) // 3]), max(memory[-len(memory) // 3 :])
    assert last <= first * _GROWTH, f"memory: {first} kB early, {last} kB late"
    return f"{last / first:.3f} of the early memory, {values[-1]} threads, {late[-1][0]} descriptors"


def epochs(workshop, number):
    """Short epochs with reading processes and evaluation."""
    row = Row(f"{number} epochs with 2 reading processes: descriptors, threads, memory")
    loaders = workshop.config()["DataLoader"]
    for part in ("Train", "Eval"):
        loaders[part]["loader"]["num_workers"] = 2
    run = workshop.new_run(
        DataLoader=loaders,
        Global={"epochs": number, "save_steps": None, "save_interval": -1, "eval_interval": 10},
    )
    with row.attempt():
        child = run.start()
        marks, status = _watch(child, 3600)
        assert status == 0, child.output()[-300:]
        row.lost = _require_flat(marks)
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
        marks, status = _watch(child, 1800)
        assert status == 0, child.output()[-300:]
        assert child.output().count(".bmp: ") == number
        row.lost = _require_flat(marks)
    return row


def all_endurance(workshop, long):
    """All rows of this module."""
    yield epochs(workshop, 200 if long else 25)
    yield predictions(workshop, 10_000 if long else 1500)
