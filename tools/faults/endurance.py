"""Long runs: descriptors, threads and memory must stay what they were."""

import os
import shutil
import time

from paddle_attention.analysis import read_usage, require_flat

from .runs import Row


def _watch(child, begun, timeout):
    """Looks at a child from the moment its output has ``begun``, a pattern, and its exit status."""
    marks, deadline = [], time.monotonic() + timeout
    child.wait_for(begun)
    while time.monotonic() < deadline:
        if (mark := read_usage(child.pid)) is not None:
            marks.append(mark)
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            return marks, os.waitstatus_to_exitcode(status)
        time.sleep(0.01)  # a fast machine is through in a second or two
    return marks, child.wait(1)


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
    yield predictions(workshop, 10_000 if long else 3000)
