"""Runs: one network with one seed in a process of its own, resumed where it was killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from paddle_attention.files import write_atomically

from .recipe import config, write_subset


def read(path):
    """The JSON in ``path``; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path, value):
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomically(str(path), lambda file: file.write(text.encode()))


def order(plan):
    """``(network, seed)`` in the order in which they run: all networks with one seed, then the next."""
    return [(name, seed) for seed in plan["seeds"] for name in plan["networks"]]


def result_path(folder, name, seed):
    return folder / "runs" / f"{name}-{seed}.json"


def train(folder, name, seed):
    """Train one network, from the beginning or from where it was; writes its result."""
    from paddle_attention import ppcls
    from paddle_attention.config import Config
    from paddle_attention.engine import Engine

    from .networks import NETWORKS

    plan, output = read(folder / "plan.json"), folder / "work" / f"{name}-{seed}"
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
    plan = read(folder / "plan.json")
    waiting = [job for job in order(plan) if not result_path(folder, *job).is_file()]
    running, failed = {}, 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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


def results(folder):
    """All results so far, by network."""
    found = {}
    for path in sorted(Path(folder, "runs").glob("*.json")):
        result = read(path)
        found.setdefault(result["network"], {})[result["seed"]] = result
    return found
