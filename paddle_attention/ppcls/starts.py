"""Try PaddleClas' recipes in PaddleClas' own engine: do they start training with attention added?

Every recipe runs in a process of its own, as ``tools/train.py`` of a source tree would run it, on a few
generated images in place of its data and on the CPU, until its first update.
"""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from paddle import nn

from ..config import read_config
from ..interrupt import end_with_parent
from ..layers.se import SEBlock
from . import backbones
from .bridge import init_logger, register
from .generated_data import dicts, use_images, write_images
from .run import run_script

ATTENTION = {"name": "SE", "min_hidden": 4}  # so that narrow layers have hidden channels
_NOT_A_RECIPE = "is no recipe for training"
_STARTED = "started"


class _Started(BaseException):
    """Ends a training after its first update; no handler of PaddleClas' takes it for a mistake."""


def training_starts(
    tree: str, paths: Sequence[str], workers: int = 1, limit: float = 300, memory: float = 12
) -> Iterator[tuple[str, str]]:
    """Every YAML of ``paths`` and ``''``, or why PaddleClas' own engine does not start training it.

    Args:
        tree (str): a PaddleClas source tree.
        paths (sequence of str): YAML files.
        workers (int): processes at a time.
        limit (float): seconds for one.
        memory (float): GiB of address space for one.

    Yields:
        tuple: path and reason, in the order in which they end.
    """
    register(tree)
    init_logger()
    context = multiprocessing.get_context("fork")  # each begins with PaddleClas imported
    waiting = list(reversed(paths))
    running: list[tuple[str, str, Any, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    path, work = waiting.pop(), tempfile.mkdtemp(dir=folder)
                    process = context.Process(target=_try, args=(tree, path, folder, work, memory))
                    process.start()
                    running.append((path, work, process, time.monotonic() + limit))
                time.sleep(0.05)
                for item in [r for r in running if not r[2].is_alive() or time.monotonic() > r[3]]:
                    running.remove(item)
                    path, work, process, _ = item
                    yield path, _reason(process, work, limit)
                    shutil.rmtree(work, ignore_errors=True)
        finally:
            for _, _, process, _ in running:
                process.kill()


def _reason(process: Any, work: str, limit: float) -> str:
    """What became of a process that has ended, or has no more time."""
    if process.is_alive():
        process.kill()
        process.join()
        return f"takes more than {limit:.0f} s for one step on a CPU"
    process.join()
    try:
        with open(os.path.join(work, "result.json"), encoding="utf-8") as file:
            text = str(json.load(file))
    except FileNotFoundError:
        return f"the process ended with status {process.exitcode}"
    return "" if text == _STARTED else text


def _try(tree: str, path: str, folder: str, work: str, memory: float) -> None:
    """In a process of its own: write what becomes of a recipe to ``work/result.json``."""
    end_with_parent()
    log = os.open(os.path.join(work, "log.txt"), os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    bytes_ = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        result = _start(tree, path, folder, work)
    except MemoryError:
        result = f"needs more than {memory:.0f} GiB of memory"
    except BaseException as error:  # of any kind: it is the cell's content
        result = _last_line(error)
    with open(os.path.join(work, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file)
    os._exit(0)  # nothing of what PaddleClas has left running matters


def _last_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    summary = re.search(
        r"^[(\w]\w*(?:Error|Argument)\w*\)?[:\s].*", text, re.M
    )  # of an error of Paddle's own
    kind = f"{type(error).__name__}: " if isinstance(error, KeyError) else ""
    return kind + " ".join((summary[0] if summary and "Traceback" in text else text).split())[:200]


def _start(tree: str, path: str, folder: str, work: str) -> str:
    config = importlib.import_module("ppcls.utils.config")
    try:
        read_config(path)  # which expands no aliases without end
        recipe = config.get_config(path, show=False)
    except Exception as error:
        return f"{_NOT_A_RECIPE}: {_last_line(error)}"
    recipe = json.loads(json.dumps(recipe))  # plain containers
    missing = [k for k in ("Arch", "Loss", "Optimizer", "DataLoader") if not recipe.get(k)]
    if missing or not (recipe["DataLoader"].get("Train") or recipe["DataLoader"].get("UnLabelTrain")):
        return f"{_NOT_A_RECIPE}: it has no {missing[0] if missing else 'DataLoader.Train'}"
    changed = os.path.join(work, "recipe.yaml")
    with open(changed, "w", encoding="utf-8") as file:
        yaml.safe_dump(prepare(recipe, folder, work), file)
    errors: list[BaseException] = []
    _stop_after_the_first_update(errors)
    os.chdir(tree)
    try:
        run_script(os.path.join(tree, "tools", "train.py"), ["-c", changed])
    except _Started:
        return _STARTED
    except SystemExit:
        return _last_line(errors[-1]) if errors else "the script ended"
    return "the training ended without an update"


def _stop_after_the_first_update(errors: list[BaseException]) -> None:
    """Let the first update end the script where attention got gradients; keep the script's own errors."""
    from paddle.optimizer import Optimizer

    engine = importlib.import_module("ppcls.engine.engine").Engine
    train, networks = engine.train, []

    def remember(self: Any) -> Any:
        networks.append(self.model)
        return train(self)

    def finished(self: Any, *arguments: Any, **options: Any) -> None:
        _check_attention(networks[-1])
        raise _Started

    def keep(*arguments: Any, **options: Any) -> None:
        errors.append(sys.exc_info()[1] or RuntimeError("unknown"))

    engine.train = remember
    Optimizer.clear_grad = finished
    traceback.print_exc = keep  # with which run_script shows the script's errors


def _check_attention(network: nn.Layer) -> None:
    """Raise RuntimeError unless the network has attention, all of which learns."""
    layers = [layer for layer in network.sublayers() if isinstance(layer, SEBlock)]
    if not layers:
        raise RuntimeError("the network has no attention")
    if any(p.grad is None for layer in layers for p in layer.parameters()):
        raise RuntimeError("no gradient reaches the attention")


def prepare(recipe: dict[str, Any], folder: str, work: str) -> dict[str, Any]:
    """A recipe with attention in its networks, on the CPU, on the generated images, without downloads.

    Args:
        recipe (dict): a parsed YAML; it is not changed.
        folder (str): of the generated images.
        work (str): a folder for lists and output.
    """
    recipe = copy.deepcopy(recipe)
    settings = recipe.setdefault("Global", {})
    settings.update(
        device="cpu",
        output_dir=os.path.join(work, "output"),
        epochs=1,
        eval_during_train=False,
        use_visualdl=False,
        pretrained_model=None,
        checkpoints=None,
        use_dali=False,
    )
    if recipe.get("AMP"):
        recipe["AMP"]["use_amp"] = False
        recipe["AMP"]["level"] = "O1"
    _add_attention(recipe["Arch"])
    for node in dicts(recipe["Arch"]):
        for key in ("pretrained", "use_ssld"):
            if key in node:
                node[key] = False
    use_images(recipe["DataLoader"], recipe["Arch"].get("class_num") or 2, folder, work)
    return recipe


def _add_attention(section: dict[str, Any]) -> None:
    """Put :data:`ATTENTION` into a network's section, or into the networks it is made of."""
    if isinstance(section.get("Backbone"), dict):
        _add_attention(section["Backbone"])
    elif isinstance(section.get("models"), list):
        for model in section["models"]:
            for part in model.values():
                if isinstance(part, dict) and "Teacher" not in model:
                    _add_attention(part)
    elif section.get("name") not in backbones.__all__:
        section.update(
            name=backbones.AttentionNet.__name__, backbone=section["name"], attention=dict(ATTENTION)
        )
