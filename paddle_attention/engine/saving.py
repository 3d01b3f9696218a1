"""What a training writes into its checkpoints, and gives back from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from ..checkpoint import set_weights
from ..config import ConfigError, section_hashes
from .checkpoint_files import LATEST, describe_progress, read_checkpoint
from .optimizer_state import load_optimizer
from .processes import agree, is_first

if TYPE_CHECKING:
    from .engine import Engine
    from .steps import Position

logger = logging.getLogger("ppcls")

_WATCHED = ("Arch", "DataLoader", "Optimizer", "Loss", "EMA", "AMP")


class State:
    """All that the rest of a training depends on.

    Args:
        engine (Engine): which has the parts.

    Attributes:
        best (dict): ``metric`` and ``epoch`` of the best so far.
        updated (bool): whether this process has updated a weight.
        resumed (dict or None): the optimizer's state as it was read, until the first update.
        metric (float): of the checkpoint that was read.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.best = {"metric": -1.0, "epoch": 0}
        self.updated, self.metric = False, 0.0
        self.resumed: dict[str, Any] | None = None

    def note_update(self) -> None:
        """A weight has been updated: from now on the optimizer tells its state itself."""
        self.resumed, self.updated = None, True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to save: the optimizer has no state before its first step."""
        return not self.updated and self.resumed is None

    # --- writing -------------------------------------------------------------------------

    def save(self, name: str, info: dict[str, Any], pending: dict[str, Any] | None = None) -> None:
        """Write the checkpoint ``name``.

        Args:
            name (str): ``'latest'``, ``'best_model'`` or ``'epoch_N'``.
            info (dict): ``metric`` and ``epoch``.
            pending (dict, optional): the averages of an epoch that is yet to be evaluated.
        """
        if not is_first():
            return
        if self.is_empty:
            logger.info("nothing to save: no step has been taken yet")
            return
        self.engine.checkpoints.save(name, self._values(), info, self._facts(pending))

    def save_interrupted(self) -> None:
        """Write ``latest`` inside of an epoch."""
        self.save(LATEST, {"metric": 0.0, "epoch": self.engine.position.epoch - 1})

    def save_latest_again(self, epoch: int) -> None:
        """A run that was killed between its last ``epoch_N`` and ``latest`` has an older ``latest``."""
        checkpoints = self.engine.checkpoints
        facts = checkpoints.facts(LATEST)
        if self.resumed is not None and facts and facts["run"] == checkpoints.run and facts["epoch"] < epoch:
            self.save(LATEST, {"metric": self.metric, "epoch": epoch})

    def _values(self) -> dict[str, Any]:
        engine = self.engine
        if engine.average is not None:  # as in PaddleClas: the average is the model
            values: dict[str, Any] = {
                ".pdema": engine.network.state_dict(),
                ".pdparams": engine.average.state_dict(),
            }
        else:
            values = {".pdparams": engine.network.state_dict()}
        # Before the first step after a resumption Paddle's optimizer does not give back what it was given.
        values[".pdopt"] = engine.optimizer.state_dict()
        if self.resumed is not None:  # its schedule goes on also where updates are skipped
            schedule = {k: v for k, v in values[".pdopt"].items() if k == "LR_Scheduler"}
            values[".pdopt"] = {**self.resumed, **schedule}
        return values

    def _facts(self, pending: dict[str, Any] | None) -> dict[str, Any]:
        engine = self.engine
        scaler = getattr(engine.model, "_scaler", None)
        return {
            "step": engine.position.step,
            "pending": pending,
            "meters": {"count": engine.meters.count, "sums": engine.meters.sums},
            "seed": engine.random.seed,
            "skipped_batches": engine.guard.skipped,
            "scaler": None if scaler is None else _plain(scaler.state_dict()),
            "epochs": engine.settings["epochs"],
            "steps_per_epoch": engine.steps,
            "update_freq": engine.update_freq,
            "processes": paddle.distributed.get_world_size(),
            "sections": section_hashes(engine.config),
        }

    # --- reading -------------------------------------------------------------------------

    def restore(self) -> dict[str, float] | None:
        """Restore ``Global.checkpoints``.

        Returns:
            dict or None: the averages of an epoch that is yet to be evaluated.
        """
        engine = self.engine
        prefix = self._find()
        if prefix is None:
            return None
        checkpoint = read_checkpoint(prefix, engine.average is not None)
        weights: Any = checkpoint.weights
        path = checkpoint.prefix + ".pdparams"
        if engine.average is not None:
            set_weights(engine.average, weights, path)
            weights, path = checkpoint.average, checkpoint.prefix + ".pdema"
        set_weights(engine.network, weights, path)
        parameters = [p for p in engine.network.parameters() if p.trainable]
        path = checkpoint.prefix + ".pdopt"
        same_kind = load_optimizer(engine.optimizer, parameters, checkpoint.optimizer, path)
        self.resumed, self.metric = checkpoint.optimizer, checkpoint.metric
        engine.position.epoch, engine.position.step = checkpoint.epoch + 1, 0
        facts = checkpoint.facts
        logger.info(
            f"Finish load checkpoints from {checkpoint.prefix}, "
            f"{describe_progress({'epoch': checkpoint.epoch, 'step': facts.get('step')})}"
        )
        pending = self._restore_facts(facts) if facts else None
        if not same_kind:
            self._place_schedule()
        self.best = engine.checkpoints.best() or self.best
        return pending

    def _find(self) -> str | None:
        """The prefix that ``Global.checkpoints`` means; None to start anew."""
        engine, prefix = self.engine, self.engine.settings.get("checkpoints")
        if prefix is None:
            self._warn_of_replacement()
        elif prefix == "auto":
            prefix = engine.checkpoints.newest(engine.config["Arch"].get("name"))
            if prefix is None:
                logger.info(
                    f"Global.checkpoints: auto: {engine.output_dir} holds no checkpoint; starting anew"
                )
        elif prefix.lower() == "auto":
            raise ConfigError(f"Global.checkpoints: {prefix!r}; did you mean 'auto'?")
        return prefix

    def _warn_of_replacement(self) -> None:
        """A new run in the folder of another replaces its checkpoints."""
        facts = self.engine.checkpoints.facts(LATEST)
        if facts is not None:
            logger.warning(
                f"{self.engine.output_dir} holds the checkpoints of another run ({describe_progress(facts)}), which "
                "this one replaces; -o Global.checkpoints=auto goes on with them, -o Global.output_dir keeps them"
            )

    def _restore_facts(self, facts: Mapping[str, Any]) -> dict[str, float] | None:
        """What makes the rest of the run the one that was interrupted; returns what :meth:`restore` does."""
        engine, hashes = self.engine, section_hashes(self.engine.config)
        changed = [k for k in _WATCHED if facts["sections"].get(k) != hashes.get(k)]
        if changed:
            logger.warning(f"other than when the checkpoint was written: {', '.join(changed)}")
        if engine.seed is not None and engine.seed != facts["seed"]:
            logger.info(f"Global.seed: the checkpoint's {facts['seed']} is used, not {engine.seed}")
        engine.random.seed, engine.guard.skipped = facts["seed"], facts["skipped_batches"]
        if engine.checkpoints.is_last_of_its_run(facts):  # else another run branches off here
            engine.checkpoints.run = facts["run"]
        if facts["scaler"]:
            engine.model._scaler = paddle.amp.GradScaler(**engine.model._adapter._amp_configs)
            engine.model._scaler.load_state_dict(_arrays(facts["scaler"]))
        now = (engine.steps, paddle.distributed.get_world_size(), engine.update_freq)
        same = (facts["steps_per_epoch"], facts["processes"], facts.get("update_freq", now[2])) == now
        if facts["step"] and not same:
            logger.warning("the batches of an epoch are others now: the interrupted epoch begins again")
        elif facts["step"]:
            engine.position.step = facts["step"]
            engine.meters.count, engine.meters.sums = facts["meters"]["count"], facts["meters"]["sums"]
        epochs = engine.settings["epochs"]
        if not same or facts.get("epochs", epochs) != epochs or "Optimizer" in changed:
            self._place_schedule()
        return facts["pending"]

    def _place_schedule(self) -> None:
        """Put a schedule of another course where this run is in it; what was restored is of the old course."""
        engine, schedule = self.engine, self.engine.schedule
        done = engine.position.epoch - 1
        if not schedule.by_epoch:
            done = (done * engine.steps + engine.position.step) // engine.update_freq
        before = schedule.last_lr
        schedule.step(done)
        if not math.isclose(before, schedule.last_lr, rel_tol=1e-6):
            logger.warning(
                "the learning rate follows another schedule than when the checkpoint was written: it goes on with "
                f"{schedule.last_lr:.8f}, not {before:.8f}"
            )


def require_agreement(position: Position) -> None:
    """All processes must go on at one place: each reads the checkpoint by itself.

    Raises:
        ConfigError: if they do not.
    """
    epoch, step = position.epoch, position.step
    latest, earliest, last, first = agree(epoch, -epoch, step, -step)
    if (latest, last) != (-earliest, -first):
        raise ConfigError(
            "Global.checkpoints: the processes found different checkpoints (epochs "
            f"{-earliest - 1} to {latest - 1}); output_dir must be one folder for all of them"
        )


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a dict of arrays, for JSON."""
    return {k: np.asarray(v).tolist() for k, v in state.items()}


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What :func:`_plain` was made of."""
    return {k: np.array(v, "float32") if isinstance(v, list) else v for k, v in state.items()}
