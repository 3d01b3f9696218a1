"""Runs: one network with one seed in a process of its own, resumed where it was killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from paddle_attention.files import write_atomically

from .networks import NETWORKS
from .recipe import config, write_subset

PLAN = ("data", "networks", "seeds", "images", "epochs", "size", "facts")
PARENT = "ABLATION_PARENT"  # the process that has started this one
RECIPE = ("images", "epochs", "size")  # two results with others are not compared


def read(path):
    """The JSON in ``path``; None where there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def read_plan(folder):
    """The plan of a folder, whole; raises ValueError naming what is wrong."""
    path = folder / "plan.json"
    plan = read(path)
    if plan is None:
        raise ValueError(f"{folder} has no plan.json; make one with --plan --hours H")
    missing = [key for key in PLAN if not isinstance(plan, dict) or key not in plan]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}; make it again with --plan and another --output")
    for name in plan["networks"]:
        if name not in NETWORKS or name not in plan["facts"]:
            raise ValueError(
                f"{path}: networks: {name!r} is not known or not measured (known: {', '.join(NETWORKS)})"
            )
    return plan


def write(path, value):
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(str(path), lambda file: file.write(text.encode()))


def order(plan):
    """``(network, seed)`` in the order in which they run: all networks with one seed, then the next."""
    return [(name, seed) for seed in plan["seeds"] for name in plan["networks"]]


def result_path(folder, name, seed):
    return folder / "runs" / f"{name}-{seed}.json"


def end_with(parent):
    """End this process, its state saved, within seconds of the death of process ``parent``, also by kill -9."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def train(folder, name, seed):
    """Train one network, from the beginning or from where it was; writes its result."""
    if PARENT in os.environ:
        end_with(int(os.environ[PARENT]))
    from paddle_attention import ppcls
    from paddle_attention.config import Config
    from paddle_attention.engine import Engine

    plan, output = read_plan(folder), folder / "work" / f"{name}-{seed}"
    output.mkdir(parents=True, exist_ok=True)
    subset = write_subset(plan["data"], plan["images"], output / "train_list.txt")
    ppcls.register()
    ppcls.init_logger(str(output / "train.log"))
    engine = Engine(Config(config(plan, NETWORKS[name], seed, output, subset)), ppcls.build_network, "train")
    began = time.time()
    engine.train()
    if not engine.evaluation.results:  # it had ended, but its result was not written
        engine.evaluation.run(plan["epochs"])
    result = {
        "network": name,
        "seed": seed,
        "epochs": plan["epochs"],
        "images": plan["images"],
        "size": plan["size"],
        **{key: engine.evaluation.results[key] for key in ("top1", "top5")},
        "loss": engine.evaluation.results["loss"],
        "seconds_of_the_last_part": round(time.time() - began, 1),
    }
    (folder / "runs").mkdir(exist_ok=True)
    write(result_path(folder, name, seed), result)


def run_all(folder, jobs, script):
    """Run all that is not done, ``jobs`` at a time, each with one thread; returns how many failed."""
    plan = read_plan(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended, too
    waiting = [job for job in order(plan) if not result_path(folder, *job).is_file()]
    running, failed = {}, 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, seed = waiting.pop(0)
                (folder / "logs").mkdir(exist_ok=True)
                log = open(folder / "logs" / f"{name}-{seed}.txt", "ab")  # noqa: SIM115 - the child's
                command = [sys.executable, script, "--output", str(folder), "--one", name, str(seed)]
                running[name, seed] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
                )
                log.close()
            time.sleep(1)
            for job in [job for job, child in running.items() if child.poll() is not None]:
                child = running.pop(job)
                failed += child.returncode != 0
                result = read(result_path(folder, *job)) if child.returncode == 0 else None
                said = (
                    f"top1 {result['top1']:.4f}"
                    if result
                    else f"failed, see {folder}/logs/{job[0]}-{job[1]}.txt"
                )
                print(f"{time.strftime('%H:%M:%S')} {job[0]} seed {job[1]}: {said}", flush=True)
    finally:
        for child in running.values():
            child.terminate()  # it saves its state
        for child in running.values():
            child.wait()
    return failed


def results(folder, plan):
    """``(results of the plan's recipe, by network and seed; the files of other results)``."""
    planned, found, others = set(order(plan)), {}, []
    for path in sorted(Path(folder, "runs").glob("*.json")):
        result = read(path)
        same = all(result.get(key) == plan[key] for key in RECIPE)
        if same and (result["network"], result["seed"]) in planned:
            found.setdefault(result["network"], {})[result["seed"]] = result
        else:
            others.append(path.name)
    return found, others
