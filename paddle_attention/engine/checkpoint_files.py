"""What the files of one checkpoint hold: read with everything checked, and nothing in them run."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import files
from ..checkpoint import read_file, read_state_dict
from ..config import VALIDATOR, short

logger = logging.getLogger("ppcls")

LATEST, BEST = "latest", "best_model"
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_FROM_ONE = {"type": "integer", "minimum": 1}
_AVERAGES = {"type": "object", "additionalProperties": _NUMBER}
# What a manifest says of a training besides the checksums.
_FACTS: dict[str, Any] = {
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
    average: dict | None
    optimizer: dict
    epoch: int
    metric: float
    facts: dict


def read_checkpoint(prefix: str, average: bool = False) -> Checkpoint:
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
    states = read_states(prefix)
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


def read_states(prefix: str) -> dict[str, Any]:
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


def read_facts(prefix: str, manifest: dict[str, Any] | None = None) -> dict[str, Any] | None:
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


def describe_progress(facts: Mapping[str, Any]) -> str:
    """``'epoch 3'``, or ``'epoch 4, step 20'`` inside of an epoch."""
    if facts.get("step"):
        return f"epoch {facts['epoch'] + 1}, step {facts['step']}"
    return f"epoch {facts['epoch']}"
