"""The checkpoints of a run: written as sets, found again, and read with everything checked."""

import hashlib
import json
import logging
import math
import os
import platform
import re
from dataclasses import dataclass

import paddle

from .. import __version__, files
from ..weights import read_file, read_state_dict, save_set

logger = logging.getLogger("ppcls")

LATEST, BEST = "latest", "best_model"
_EPOCH = re.compile(r"epoch_(\d+)")


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
        for ending in (".pdparams", ".pdema"):
            _require_finite(values.get(ending, {}), self.prefix(name) + ending, self._kept())
        versions = {
            "paddle_attention": __version__,
            "paddle": paddle.__version__,
            "python": platform.python_version(),
        }
        values = {**values, ".pdstates": info}
        save_set(self.prefix(name), values, {**info, **facts, "versions": versions}, self._kept())
        logger.info(f"Already save model in {self.prefix(name)}")
        if self.keep and _EPOCH.fullmatch(name):
            self._prune()

    def _kept(self):
        """What to say of the newest checkpoint when another cannot be written."""
        prefix = self.prefix(LATEST)
        manifest = files.read_manifest(prefix) if os.path.isdir(self.directory) else None
        if manifest is None:
            return "there is no earlier checkpoint"
        return f"the checkpoint {prefix} of {describe_progress(manifest)} is kept"

    def _prune(self):
        numbers = sorted({int(m[1]) for m in map(_EPOCH.match, os.listdir(self.directory)) if m})
        for number in numbers[: -self.keep]:
            files.remove(self.prefix(f"epoch_{number}"))

    def clean(self):
        """Finish or remove what a run that died here has left; for the owner of the directory."""
        for name in sorted(os.listdir(self.directory)):
            if files.is_left_over(name):
                files.recover(self.prefix(files.set_of(name)), owner=True)

    def newest(self):
        """Prefix of the newest checkpoint here that is whole; None where there is none.

        Those of PaddleClas' own engine, in the folder of the architecture's name, count as well.
        """
        found = []
        folders = [self.directory, *(e.path for e in os.scandir(self.directory) if e.is_dir())]
        for folder in folders if os.path.isdir(self.directory) else ():
            for entry in os.scandir(folder):
                if entry.name.endswith(".pdopt"):
                    found += self._progress(entry.path.removesuffix(".pdopt"))
        for _, _, _, prefix in sorted(found, reverse=True):
            try:
                read_checkpoint(prefix)
            except (ValueError, OSError) as error:
                logger.warning(f"{prefix} is skipped: {error}")
            else:
                return prefix
        return None

    @staticmethod
    def _progress(prefix):
        """``[(epochs, steps, whether it is the latest, prefix)]``, or [] for what is not whole."""
        try:
            files.recover(prefix)
            manifest = files.read_manifest(prefix)
            known = manifest if manifest is not None else _read_states(prefix)
            is_latest = os.path.basename(prefix) == LATEST
            return [(int(known["epoch"]), int(known.get("step", 0)), is_latest, prefix)]
        except (ValueError, OSError, KeyError, TypeError) as error:
            logger.warning(f"{prefix} is skipped: {error}")
            return []


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
    manifest = files.verify(prefix)
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
        raise ValueError(f"{path} must hold 'epoch' and 'metric', but holds {_short(states)}")
    epoch, metric = states["epoch"], states["metric"]
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"{path}: 'epoch' must be an integer from 0, but is {_short(epoch)}")
    try:
        metric = float(metric)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: 'metric' must be a number, but is {_short(metric)}") from None
    if not math.isfinite(metric):
        raise ValueError(f"{path}: 'metric' must be a number, but is {metric}")
    return {"epoch": epoch, "metric": metric}


def load_optimizer(optimizer, parameters, state, path):
    """Give ``optimizer`` the state of the file ``path``, which must be of these parameters.

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
                f"{path} does not fit: {key} is {_short(value) if shape is None else list(shape)}, "
                f"its parameter {list(by_name[owner].shape)}"
            )
    kinds = {v for c in type(optimizer).__mro__ for k, v in vars(c).items() if k.endswith("_acc_str")}
    for kind in sorted(kinds):
        if not any(f"_{kind}_" in key for key in tensors):
            raise ValueError(
                f"{path} does not fit: it has no {kind!r}, which {type(optimizer).__name__} needs; "
                "it was written by another optimizer"
            )
    try:
        optimizer.set_state_dict(state)
    except Exception as error:  # Paddle asserts, and trusts what it reads
        raise ValueError(f"{path} does not fit: {type(error).__name__}: {error}") from error


def _prefixes(key):
    """``'a_b_c'`` to ``'a_b'``, ``'a'``."""
    while "_" in key:
        key = key.rpartition("_")[0]
        yield key


def section_hashes(config):
    """A short checksum of every section of a configuration, to tell which have changed."""
    return {
        key: hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
        for key, value in config.items()
    }


def _require_finite(state, path, kept):
    for key, value in state.items():
        if value.is_floating_point() and not bool(paddle.isfinite(value).all()):
            raise NonFiniteError(
                f"{path} is not written: {key} holds numbers that are not finite; {kept}. Lower the learning "
                "rate, or look at the images (Global.nan_policy tells at which batch a loss goes wrong)"
            )


def _short(value, limit=60):
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
