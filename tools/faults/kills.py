"""Processes that end where they should not: SIGKILL, SIGTERM, dead workers and ranks."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import paddle

from paddle_attention import files
from paddle_attention.checkpoint import read_safetensors, save_weights

from .runs import Child, Row, assert_equal

_SETTLED = 30  # seconds in which the other processes of a job must have ended


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(number):
    """A function for the child: SIGKILL at its ``number``-th call that changes files, half-way through a write."""

    def prepare():
        left = [number]

        def wrap(module, name, before):
            original = getattr(module, name)

            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    before(original, arguments)
                    _die()
                return original(*arguments, **options)

            setattr(module, name, call)

        def nothing(original, arguments):
            pass

        def half(original, arguments):
            original(*arguments)
            os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)

        for name in ("replace", "unlink", "fsync"):
            wrap(os, name, nothing)
        wrap(paddle, "save", half)

    return prepare


def kills(workshop, times, chance, kinds):
    """SIGKILL of trainings at random moments and inside of saves; every run must end bit-equal."""
    rows = []
    for name, sections in kinds.items():
        reference = workshop.new_run(**sections).finish()
        for aimed in (False, True):
            where = "while a checkpoint is written" if aimed else "at any moment"
            row = Row(f"SIGKILL {where}{name}, then go on", "steps since the last checkpoint, done again")
            rows.append(row)
            while row.tried < times:
                run, before = workshop.new_run(**sections), row.tried
                with row.attempt():
                    while row.tried < min(before + 8, times):
                        row.tried += _kill_once(run, chance, aimed)
                        if run.saved() and _complete(run):
                            break
                    row.tried -= 1  # which the attempt counts
                    assert_equal(reference, run.finish())
                row.survived = row.tried - len(row.failures)
    return rows


def _complete(run):
    return files.read_manifest(str(run.output / "latest"))["epoch"] >= run.config["Global"]["epochs"]


def _kill_once(run, chance, aimed):
    """Start the run and kill it; returns 1 if it was still alive then."""
    if aimed:
        child = run.start(die_at_call(chance.randrange(60)))
        return int(child.wait() == -signal.SIGKILL)
    child = run.start()
    deadline = time.monotonic() + chance.uniform(0.1, 4)
    while time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill(signal.SIGKILL)
    return int(child.wait() == -signal.SIGKILL)


def signals(workshop, times, chance):
    """SIGTERM and SIGINT: exit status, one line, and a run that goes on bit-equal."""
    rows = [Row("SIGTERM, then go on"), Row("Ctrl-C, then go on")]
    reference = workshop.new_run(Global={"save_steps": None}).finish()
    for row, number in zip(rows, (signal.SIGTERM, signal.SIGINT), strict=True):
        for _ in range(times):
            with row.attempt():
                run = workshop.new_run(Global={"save_steps": None})
                child = run.start()
                pattern = rf"Epoch {chance.randint(1, 3)}/3\]\[Iter: {chance.randint(0, 6)}/"
                child.wait_for(pattern)
                child.kill(number)
                status = child.wait(60)
                assert status == 128 + number, f"status {status}: {child.output()[-300:]}"
                assert re.match(r"stopped by SIG\w+ after epoch \d.*go on with -o", child.last_line())
                assert_equal(reference, run.finish())
    return rows


def worker(workshop, times, chance):
    """A process that reads images dies: the run ends with one line, and goes on later."""
    row = Row("a reading process dies (as for lack of memory)", "steps since the last checkpoint, done again")
    workers = {"DataLoader": workshop.config()["DataLoader"]}
    workers["DataLoader"]["Train"]["loader"]["num_workers"] = 2
    reference = workshop.new_run(**workers).finish()
    for _ in range(times):
        with row.attempt():
            run = workshop.new_run(**workers, Global={"epochs": 3})
            child = run.start()
            child.wait_for("Iter: [1-5]/")
            children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            victims = [int(pid) for pid in children if b"resource_tracker" not in _command(pid)]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            status = child.wait(60)
            assert status == 2, f"status {status}: {child.output()[-300:]}"
            assert "a process that reads images has died" in child.last_line()
            assert_equal(reference, run.finish())
    return [row]


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def ranks(workshop, times, chance):
    """One of two processes of a job dies, also inside of a save: the job ends, and goes on later."""
    rows = [
        Row("SIGKILL of one of two processes", "steps since the last checkpoint, done again"),
        Row("SIGTERM of a job of two processes, then go on"),
    ]
    for row, kill in zip(rows, (_kill_rank, _stop_job), strict=True):
        for _ in range(times):
            with row.attempt():
                run = workshop.new_run(Global={"save_steps": 1 if kill is _kill_rank else None})
                job = _launch(run)
                pids = _wait_for_ranks(run, job, chance)
                kill(job, pids, chance)
                job.wait(_SETTLED)
                deadline = time.monotonic() + _SETTLED
                while any(_alive(pid) for pid in pids):
                    assert time.monotonic() < deadline, "a process of the job goes on"
                    time.sleep(0.05)
                assert files.verify(str(run.output / "latest")) is not None
                job = _launch(run)
                assert job.wait(180) == 0, _log(run)[-500:]
                assert files.verify(str(run.output / "latest"))["epoch"] == 3
    return rows


def _kill_rank(job, pids, chance):
    time.sleep(chance.uniform(0, 0.5))
    os.kill(chance.choice(pids), signal.SIGKILL)


def _stop_job(job, pids, chance):
    job.send_signal(signal.SIGTERM)


def _launch(run):
    (run.folder / "log").mkdir(exist_ok=True)
    for path in (run.folder / "log").iterdir():
        path.unlink()
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(run.folder / "log"), str(Path(__file__).parents[1] / "train.py")]
    command += ["-c", str(run.yaml)]
    return subprocess.Popen(
        command, cwd=run.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _log(run):
    return "\n".join(p.read_text(errors="replace") for p in sorted((run.folder / "log").glob("workerlog.*")))


def _wait_for_ranks(run, job, chance):
    """Process ids of the ranks, once they have trained for a while."""
    pattern = rf"Epoch 1/3\]\[Iter: {chance.randint(0, 2)}/"
    deadline = time.monotonic() + 90
    while not (re.search(pattern, _log(run)) and run.saved()) and time.monotonic() < deadline:
        if run.config["Global"]["save_steps"] is None and re.search(pattern, _log(run)):
            break
        assert job.poll() is None, _log(run)[-500:]
        time.sleep(0.05)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    pids = [int(pid) for pid in children if b"train.py" in _command(pid)]
    assert len(pids) == 2, f"{len(pids)} processes: {_log(run)[-300:]}"
    return pids


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def exports(workshop, times, chance):
    """SIGKILL while a model is exported over another: what is there afterwards is one of the two, whole."""
    row = Row("SIGKILL while exporting over an earlier export")
    run = workshop.new_run()
    run.finish()
    target = run.folder / "inference"
    weights = [f"Global.pretrained_model={run.output}/{name}" for name in ("epoch_3", "best_model")]
    digests = []
    for path in weights:
        run.tool("export_model", path)
        digests.append(files.verify(str(target / "inference"))["files"])
    for i in range(times):
        with row.attempt():
            child = run.start(die_at_call(chance.randrange(14)), "export_model", weights[i % 2])
            assert child.wait() in (0, -signal.SIGKILL), child.output()[-300:]
            assert files.verify(str(target / "inference"))["files"] in digests
    with row.attempt():
        run.tool("export_model", weights[0])
        left = sorted(
            p.name for p in target.iterdir() if p.name.startswith(".") or p.name.endswith(files.STAGED)
        )
        assert not left, f"left behind: {left}"
    return [row]


def conversions(workshop, times, chance):
    """SIGKILL while ``.safetensors`` are written over others."""
    row = Row("SIGKILL while writing .safetensors")
    folder = workshop.folder / "safetensors"
    folder.mkdir()
    path = folder / "a.safetensors"

    def write(value, prepare=None):
        if prepare is not None:
            prepare()
        save_weights({"x": paddle.full([1000], value), "y": paddle.full([10], value)}, str(path))

    Child(write, 0.0, log=folder / "log.txt").wait()
    for i in range(times):
        with row.attempt():
            Child(write, float(i), die_at_call(chance.randrange(4)), log=folder / "log.txt").wait()
            found = read_safetensors(str(path))
            values = {float(v) for array in found.values() for v in array}
            assert len(values) == 1, values
    with row.attempt():
        assert Child(write, 1.0, log=folder / "log.txt").wait() == 0
        assert sorted(p.name for p in folder.iterdir()) == ["a.safetensors", "log.txt"]
    return [row]


def all_kills(workshop, scale):
    """All rows of this module; ``scale`` is 1 for the short check."""
    chance = random.Random(1)
    kinds = {"": {}, " of a run with EMA": {"EMA": {"decay": 0.8}}}
    yield from kills(workshop, 8 * scale, chance, kinds)
    yield from signals(workshop, 2 * scale, chance)
    yield from worker(workshop, scale, chance)
    yield from exports(workshop, 6 * scale, chance)
    yield from conversions(workshop, 8 * scale, chance)
    yield from ranks(workshop, scale, chance)
