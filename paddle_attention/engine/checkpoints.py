"""The checkpoints of a run: written as sets, found again, and read with everything checked."""

import hashlib
import logging
import math
import os
import platform
import re
import time
import uuid
import warnings
from dataclasses import dataclass
from typing import Any

import paddle

from .. import __version__, files
from ..checkpoint import read_file, read_state_dict, save_set
from ..config import VALIDATOR, short

logger = logging.getLogger("ppcls")

LATEST, BEST = "latest", "best_model"
_EPOCH = re.compile(r"epoch_(\d+)")
_NAME = re.compile(r"(latest|best_model|epoch_\d+)\.\w+\.?\w*\.(staged|aside)")
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_FROM_ONE = {"type": "integer", "minimum": 1}
_AVERAGES = {"type": "object", "additionalProperties": _NUMBER}
# What a manifest says of a training besides the checksums.
_FACTS: "dict[str, Any]" = {
    "type": "object",
    "properties": {
        "run": {"type": "string"},
        "saved_at": _NUMBER,
        "epoch": _COUNT,
        "step": _COUNT,
        "steps_per_epoch": _FROM_ONE,
        "processes": _FROM_ONE,
        "seed": _COUNT,
        "skipped_batches": _COUNT,
        "pending": {**_AVERAGES, "type": ["object", "null"]},
        "meters": {
            "type": "object",
            "properties": {"count": _COUNT, "sums": _AVERAGES},
            "required": ["count", "sums"],
        },
        "scaler": {"type": ["object", "null"]},
        "sections": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_FACTS["required"] = list(_FACTS["properties"])
_FACTS["properties"].update(epochs=_FROM_ONE, update_freq=_FROM_ONE)  # which older manifests lack
_FACTS_VALIDATOR = VALIDATOR.evolve(schema=_FACTS)


class NonFiniteError(ValueError):
    """A loss, or weights, that are no numbers any more."""


@dataclass
class Checkpoint:
    """What a set of files holds.

    Attributes:
        prefix (str): its path without ending.
        weights (dict): of ``.pdparams``.
        average (dict or None): of ``.pdema``: with a moving average the *trained* weights, as in PaddleClas.
        optimizer (dict): of ``.pdopt``.
        epoch (int): epochs that are complete.
        metric (float): the accuracy.
        facts (dict): the rest of the manifest; empty for a checkpoint of PaddleClas' own engine.
    """

    prefix: str
    weights: dict
    average: dict
    optimizer: dict
    epoch: int
    metric: float
    facts: dict


class Checkpoints:
    """The checkpoints in ``directory``.

    Args:
        directory (str): of one run.
        keep (int, optional): how many ``epoch_N`` to keep; by default all.
    """

    def __init__(self, directory, keep=None):
        self.directory, self.keep = directory, keep
        self.run = uuid.uuid4().hex  # a resumed run keeps its own

    def prefix(self, name):
        """Path of the checkpoint ``name``, without ending."""
        return os.path.join(self.directory, name)

    def save(self, name, values, info, facts):
        """Write a checkpoint, in one instant.

        Args:
            name (str): ``'latest'``, ``'best_model'`` or ``'epoch_N'``.
            values (dict): endings to state dicts.
            info (dict): ``metric`` and ``epoch``, for ``.pdstates``.
            facts (dict): for the manifest.

        Raises:
            NonFiniteError: if a weight is no number; nothing is written.
            OSError: naming the file and the newest checkpoint that is there.
        """
        kept = self._kept()
        for ending in (".pdparams", ".pdema"):
            _require_finite(values.get(ending, {}), self.prefix(name) + ending, kept)
        versions = {
            "paddle_attention": __version__,
            "paddle": paddle.__version__,
            "python": platform.python_version(),
        }
        values = {**values, ".pdstates": info}
        facts = {**info, **facts, "run": self.run, "saved_at": time.time(), "versions": versions}
        save_set(self.prefix(name), values, facts, kept)
        logger.info(f"Already save model in {self.prefix(name)}")
        if self.keep and _EPOCH.fullmatch(name):
            self._prune()

    def _kept(self):
        """What to say of the newest checkpoint when another cannot be written."""
        prefix = self.prefix(LATEST)
        facts = self.facts(LATEST)
        if facts is None:
            return "there is no earlier checkpoint"
        return f"the checkpoint {prefix} of {describe_progress(facts)} is kept"

    def _prune(self):
        """Remove the oldest ``epoch_N`` of this run; those of another run in the folder stay."""
        numbers = sorted({int(m[1]) for m in map(_EPOCH.match, os.listdir(self.directory)) if m})
        own = [n for n in numbers if (self.facts(f"epoch_{n}") or {}).get("run") == self.run]
        for number in own[: -self.keep]:
            files.remove(self.prefix(f"epoch_{number}"))

    def facts(self, name):
        """:func:`read_facts` of the checkpoint ``name``; None where it is damaged."""
        try:
            return read_facts(self.prefix(name))
        except files.DamagedFileError:
            return None

    def clean(self):
        """Finish or remove what a run that died here has left; for the owner of the directory."""
        for match in map(_NAME.fullmatch, sorted(os.listdir(self.directory))):
            if match:
                files.recover(self.prefix(match[1]), owner=True)

    def is_last_of_its_run(self, facts):
        """Whether no checkpoint of the same run here is further on than one with these ``facts``."""
        names = [n for n in os.listdir(self.directory) if n.endswith(files.MANIFEST)]
        others = [self.facts(name.removesuffix(files.MANIFEST)) for name in names]
        return not any(
            other["run"] == facts["run"] and (other["epoch"], other["step"]) > (facts["epoch"], facts["step"])
            for other in others
            if other
        )

    def best(self):
        """``metric`` and ``epoch`` of this run's best, or of a program that names no runs; None without one."""
        if not os.path.isfile(self.prefix(BEST) + ".pdstates"):
            return None
        files.verify(self.prefix(BEST), [".pdstates"])
        facts = self.facts(BEST)
        return _read_states(self.prefix(BEST)) if facts is None or facts["run"] == self.run else None

    def newest(self, architecture=""):
        """Prefix of the newest whole checkpoint of the run that was here last; None where there is none.

        Args:
            architecture (str): ``Arch.name``, for older PaddleClas, which saves in a folder of that name.
        """
        found = []
        for folder in dict.fromkeys((self.directory, os.path.join(self.directory, str(architecture or "")))):
            for entry in os.scandir(folder) if os.path.isdir(folder) else ():
                if entry.name.endswith(".pdopt"):
                    found += _progress(entry.path.removesuffix(".pdopt"))
        last = {}  # when each run saved last
        for run, saved_at, _, _ in found:
            last[run] = max(saved_at, last.get(run, 0))
        order = sorted(found, key=lambda item: (last[item[0]], item[2]), reverse=True)
        for _, _, _, prefix in order:
            try:
                read_checkpoint(prefix)
            except (ValueError, OSError) as error:
                logger.warning(f"{prefix} is skipped: {error}")
            else:
                return prefix
        return None


def _progress(prefix):
    """``[(run, time of saving, (epochs, steps, whether it is the latest), prefix)]``, or [] for what is damaged."""
    try:
        files.recover(prefix)
        facts = read_facts(prefix) or {}
        known = facts or {**_read_states(prefix), "saved_at": os.path.getmtime(prefix + ".pdstates")}
        progress = (known["epoch"], known.get("step", 0), os.path.basename(prefix) == LATEST)
        return [(known.get("run", os.path.dirname(prefix)), known["saved_at"], progress, prefix)]
    except (ValueError, OSError) as error:
        logger.warning(f"{prefix} is skipped: {error}")
        return []


def read_facts(prefix, manifest=None):
    """What the manifest of a checkpoint says of its training; None where there is no manifest.

    Raises:
        DamagedFileError: if it says something else than a training writes.
    """
    manifest = files.read_manifest(prefix) if manifest is None else manifest
    if manifest is None:
        return None
    error = next(_FACTS_VALIDATOR.iter_errors(manifest), None)
    if error is None and manifest["step"] >= manifest["steps_per_epoch"]:
        error = f"step {manifest['step']} of {manifest['steps_per_epoch']}"
    if error is not None:
        where = "" if isinstance(error, str) else ".".join(map(str, error.absolute_path))
        raise files.DamagedFileError(
            f"{prefix}{files.MANIFEST} is no training's: {where + ': ' if where else ''}"
            f"{error if isinstance(error, str) else error.message[:200]}"
        )
    return manifest


def describe_progress(facts):
    """``'epoch 3'``, or ``'epoch 4, step 20'`` inside of an epoch."""
    if facts.get("step"):
        return f"epoch {facts['epoch'] + 1}, step {facts['step']}"
    return f"epoch {facts['epoch']}"


def read_checkpoint(prefix, average=False):
    """Read the checkpoint ``prefix``; nothing in it is run, and its checksums must agree.

    Args:
        prefix (str): path without ending.
        average (bool): it must also hold the moving average's ``.pdema``.

    Returns:
        :class:`Checkpoint`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or holds something else.
    """
    for ending in (".pdparams", ".pdopt", ".pdstates"):
        prefix = prefix.removesuffix(ending)
    if os.path.isdir(prefix):
        raise FileNotFoundError(
            f"{prefix!r} is a folder; name a checkpoint in it, such as {os.path.join(prefix, LATEST)}"
        )
    manifest = files.verify(prefix)
    if manifest is not None:
        read_facts(prefix, manifest)
    elif os.path.exists(prefix + files.MANIFEST):
        logger.warning(f"{prefix} is not what its manifest describes: another program has written it since")
    states = _read_states(prefix)
    trained = None
    if average:
        if manifest is not None and ".pdema" not in manifest["files"]:
            raise ValueError(
                f"{prefix} was written without EMA: it has no .pdema; leave EMA out, or start anew"
            )
        trained = read_state_dict(prefix + ".pdema")
    optimizer = read_file(prefix + ".pdopt")
    if isinstance(optimizer, list) and len(optimizer) == 1:  # as PaddleClas writes it
        optimizer = optimizer[0]
    if not isinstance(optimizer, dict):
        raise ValueError(f"{prefix}.pdopt is no optimizer's state but {type(optimizer).__name__}")
    return Checkpoint(
        prefix,
        read_state_dict(prefix + ".pdparams"),
        trained,
        optimizer,
        states["epoch"],
        states["metric"],
        manifest or {},
    )


def _read_states(prefix):
    """``epoch`` and ``metric`` of ``.pdstates``."""
    path = prefix + ".pdstates"
    states = read_file(path)
    if not isinstance(states, dict) or not {"epoch", "metric"} <= set(states):
        raise ValueError(f"{path} must hold 'epoch' and 'metric', but holds {short(states, 60)}")
    epoch, metric = states["epoch"], states["metric"]
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"{path}: 'epoch' must be an integer from 0, but is {short(epoch, 60)}")
    try:
        metric = float(metric)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: 'metric' must be a number, but is {short(metric, 60)}") from None
    if not math.isfinite(metric):
        raise ValueError(f"{path}: 'metric' must be a number, but is {metric}")
    return {"epoch": epoch, "metric": metric}


def load_optimizer(optimizer, parameters, state, path):
    """Give ``optimizer`` the state of the file ``path``, which must be of these parameters.

    Returns:
        bool: whether its schedule is of the optimizer's kind; else that is left as it is.

    Raises:
        ValueError: if it is of other parameters, of other shapes or of another optimizer.
    """
    tensors = {k: v for k, v in state.items() if k not in ("LR_Scheduler", "master_weights")}
    by_name = {p.name: p for p in parameters}
    for key, value in tensors.items():
        owner = next((n for n in _prefixes(key) if n in by_name), None)
        if owner is None:
            raise ValueError(f"{path} does not fit: {key} belongs to no parameter of this network")
        shape = getattr(value, "shape", None)
        if shape is None or (list(shape) != list(by_name[owner].shape) and math.prod(shape) != 1):
            raise ValueError(
                f"{path} does not fit: {key} is {short(value, 60) if shape is None else list(shape)}, "
                f"its parameter {list(by_name[owner].shape)}"
            )
        if value.dtype not in (paddle.float32, by_name[owner].dtype):
            raise ValueError(f"{path} does not fit: {key} is of type {value.dtype}")
        if not bool(paddle.isfinite(value).all()):
            raise NonFiniteError(f"{path}: {key} holds numbers that are not finite; use another checkpoint")
    schedule = state.get("LR_Scheduler")
    if (
        not isinstance(schedule, dict)
        or not {"last_epoch", "last_lr"} <= schedule.keys()
        or not _is_plain(schedule)
    ):
        raise ValueError(f"{path} does not fit: its schedule is {short(schedule, 60)}")
    kinds = {v for c in type(optimizer).__mro__ for k, v in vars(c).items() if k.endswith("_acc_str")}
    for kind in sorted(kinds):
        if not any(f"_{kind}_" in key for key in tensors):
            raise ValueError(
                f"{path} does not fit: it has no {kind!r}, which {type(optimizer).__name__} needs; "
                "it was written by another optimizer"
            )
    own = optimizer.state_dict().get("LR_Scheduler", {})
    same_kind = {k for k, v in own.items() if isinstance(v, dict)} == {
        k for k, v in schedule.items() if isinstance(v, dict)
    }
    if not same_kind:  # with a warm-up, or without
        state = {**state, "LR_Scheduler": own}
    try:
        with warnings.catch_warnings():
            # Of the state of the schedule inside a warm-up, which is restored.
            warnings.filterwarnings("ignore", message="There are some unused values in state_dict")
            optimizer.set_state_dict(state)
    except Exception as error:  # Paddle asserts, and trusts what it reads
        raise ValueError(f"{path} does not fit: {type(error).__name__}: {error}") from error
    return same_kind


def _is_plain(schedule):
    """Whether steps and rates of a schedule, and of the one inside a warm-up, are numbers."""
    numbers = [schedule.get(key, 0) for key in ("last_epoch", "last_lr")]
    inner = [value for value in schedule.values() if isinstance(value, dict)]
    return all(type(n) in (int, float) and math.isfinite(n) for n in numbers) and all(map(_is_plain, inner))


def _prefixes(key):
    """``'a_b_c'`` to ``'a_b'``, ``'a'``."""
    while "_" in key:
        key = key.rpartition("_")[0]
        yield key


def section_hashes(config):
    """A short checksum of every section of a configuration, to tell which have changed."""
    return {
        str(key): hashlib.sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()[:16]
        for key, value in config.items()
    }


def _require_finite(state, path, kept):
    for key, value in state.items():
        if value.is_floating_point() and not bool(paddle.isfinite(value).all()):
            raise NonFiniteError(
                f"{path} is not written: {key} holds numbers that are not finite; {kept}. Lower the learning "
                "rate, or look at the images (Global.nan_policy tells at which batch a loss goes wrong)"
            )
