"""The checkpoints of a run: written as sets, and found again."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import paddle

from .. import __version__, files
from ..checkpoint import save_set
from .checkpoint_files import BEST, LATEST, describe_progress, read_checkpoint, read_facts, read_states
from .steps import NonFiniteError

logger = logging.getLogger("ppcls")

_EPOCH = re.compile(r"epoch_(\d+)")
_NAME = re.compile(r"(latest|best_model|epoch_\d+)\.\w+\.?\w*\.(staged|aside)")


class Checkpoints:
    """The checkpoints in ``directory``.

    Args:
        directory (str): of one run.
        keep (int, optional): how many ``epoch_N`` to keep; by default all.
    """

    def __init__(self, directory: str, keep: int | None = None) -> None:
        self.directory, self.keep = directory, keep
        self.run = uuid.uuid4().hex  # a resumed run keeps its own

    def prefix(self, name: str) -> str:
        """Path of the checkpoint ``name``, without ending."""
        return os.path.join(self.directory, name)

    def save(self, name: str, values: dict[str, Any], info: dict[str, Any], facts: dict[str, Any]) -> None:
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
            self._prune(self.keep)

    def _kept(self) -> str:
        """What to say of the newest checkpoint when another cannot be written."""
        prefix = self.prefix(LATEST)
        facts = self.facts(LATEST)
        if facts is None:
            return "there is no earlier checkpoint"
        return f"the checkpoint {prefix} of {describe_progress(facts)} is kept"

    def _prune(self, keep: int) -> None:
        """Remove the oldest ``epoch_N`` of this run; those of another run in the folder stay."""
        numbers = sorted({int(m[1]) for m in map(_EPOCH.match, os.listdir(self.directory)) if m})
        own = [n for n in numbers if (self.facts(f"epoch_{n}") or {}).get("run") == self.run]
        for number in own[:-keep]:
            files.remove(self.prefix(f"epoch_{number}"))

    def facts(self, name: str) -> dict[str, Any] | None:
        """:func:`read_facts` of the checkpoint ``name``; None where it is damaged."""
        try:
            return read_facts(self.prefix(name))
        except files.DamagedFileError:
            return None

    def clean(self) -> None:
        """Finish or remove what a run that died here has left; for the owner of the directory."""
        for match in map(_NAME.fullmatch, sorted(os.listdir(self.directory))):
            if match:
                files.recover(self.prefix(match[1]), owner=True)

    def is_last_of_its_run(self, facts: Mapping[str, Any]) -> bool:
        """Whether no checkpoint of the same run here is further on than one with these ``facts``."""
        names = [n for n in os.listdir(self.directory) if n.endswith(files.MANIFEST)]
        others = [self.facts(name.removesuffix(files.MANIFEST)) for name in names]
        return not any(
            other["run"] == facts["run"] and (other["epoch"], other["step"]) > (facts["epoch"], facts["step"])
            for other in others
            if other
        )

    def best(self) -> dict[str, Any] | None:
        """``metric`` and ``epoch`` of this run's best, or of a program that names no runs; None without one."""
        if not os.path.isfile(self.prefix(BEST) + ".pdstates"):
            return None
        files.verify(self.prefix(BEST), [".pdstates"])
        facts = self.facts(BEST)
        return read_states(self.prefix(BEST)) if facts is None or facts["run"] == self.run else None

    def newest(self, architecture: str = "") -> str | None:
        """Prefix of the newest whole checkpoint of the run that was here last; None where there is none.

        Args:
            architecture (str): ``Arch.name``, for older PaddleClas, which saves in a folder of that name.
        """
        found = []
        for folder in dict.fromkeys((self.directory, os.path.join(self.directory, str(architecture or "")))):
            for entry in os.scandir(folder) if os.path.isdir(folder) else ():
                if entry.name.endswith(".pdopt"):
                    found += _progress(entry.path.removesuffix(".pdopt"))
        last: dict[str, float] = {}  # when each run saved last
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


def _progress(prefix: str) -> list[tuple[str, float, tuple[int, int, bool], str]]:
    """``[(run, time of saving, (epochs, steps, whether it is the latest), prefix)]``, or [] for what is damaged."""
    try:
        files.recover(prefix)
        facts = read_facts(prefix) or {}
        known = facts or {**read_states(prefix), "saved_at": os.path.getmtime(prefix + ".pdstates")}
        progress = (known["epoch"], known.get("step", 0), os.path.basename(prefix) == LATEST)
        return [(known.get("run", os.path.dirname(prefix)), known["saved_at"], progress, prefix)]
    except (ValueError, OSError) as error:
        logger.warning(f"{prefix} is skipped: {error}")
        return []


def _require_finite(state: Mapping[str, Any], path: str, kept: str) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not bool(paddle.isfinite(value).all()):
            raise NonFiniteError(
                f"{path} is not written: {key} holds numbers that are not finite; {kept}. Lower the learning "
                "rate, or look at the images (Global.nan_policy tells at which batch a loss goes wrong)"
            )
