"""The course of a training: epochs and steps, when to evaluate and save, and how it stops."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

from tqdm.contrib.logging import logging_redirect_tqdm

from ..files import FolderLock
from ..interrupt import Interrupted, StopRequest
from .callbacks import EpochEnd, FreezeBackbone, Log, MovingAverage, StepEnd, StepSchedule, format_values
from .checkpoint_files import BEST, LATEST, describe_progress
from .evaluation import StopEvaluation
from .processes import agree, alone, is_first, share_seed, wait_for_all
from .saving import State, require_agreement

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger("ppcls")


class Training:
    """Trains what an :class:`Engine` has built.

    Args:
        engine (Engine): with its parts.

    Attributes:
        state (State): what checkpoints hold.
        stop (StopRequest): the signal that came to this process.
        stopping (int): the signal that all processes have agreed on.
        writer (visualdl.LogWriter or None): for the curves.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.position, self.meters = engine, engine.position, engine.meters
        self.state, self.stop, self.stopping = State(engine), StopRequest(), 0
        self.writer = None
        engine.train_loader.on_wait = self.stop_waiting

    def run(self) -> None:
        """Train from scratch or from ``Global.checkpoints``."""
        engine = self.engine
        lock = FolderLock(engine.output_dir, "training") if is_first() else contextlib.nullcontext()
        with lock, self.stop, contextlib.ExitStack() as closing:
            for loader in (engine.train_loader, engine.eval_loader):
                if loader is not None:
                    closing.callback(loader.close)
            if is_first():
                engine.checkpoints.clean()
            if engine.seed is None:
                engine.random.seed = share_seed(engine.random.seed)
            pending = self.state.restore()
            require_agreement(self.position)
            engine.train_loader.seed = (engine.random.seed,)
            engine.train_loader.epoch, engine.train_loader.first = self.position.epoch, self.position.step
            if engine.settings.get("use_visualdl") and is_first():
                from visualdl import LogWriter

                self.writer = closing.enter_context(LogWriter(logdir=engine.output_dir))
            if pending is not None:
                self.end_epoch(self.position.epoch - 1, pending)
            done, epochs = self.position.epoch - 1, engine.settings["epochs"]
            if done < epochs:
                self._fit()
            elif pending is None:
                logger.info(f"nothing to train: the checkpoint is of epoch {done} of {epochs}")
                self.state.save_latest_again(done)

    def _fit(self) -> None:
        engine, callbacks = self.engine, self._callbacks()
        self.meters.mode = "train"
        try:
            # On a screen, log lines go above the progress bar.
            screen = sys.stderr.isatty()
            with logging_redirect_tqdm([logger]) if screen else contextlib.nullcontext():
                engine.model.fit(
                    engine.train_loader,
                    epochs=engine.settings["epochs"] - self.position.epoch + 1,
                    verbose=0,
                    callbacks=callbacks,
                    accumulate_grad_batches=engine.update_freq,
                )
        finally:
            for callback in callbacks:
                if hasattr(callback, "release"):
                    callback.release()

    def _callbacks(self) -> list[Any]:
        engine, settings = self.engine, self.engine.settings
        log = Log(
            self.meters,
            engine.schedule,
            self.position,
            settings["epochs"],
            engine.steps,
            settings.get("print_batch_step") or 10,
            self.writer,
            bool(settings.get("print_mem_info")),
            engine.on_step,
        )
        callbacks = [log, StepSchedule(engine.schedule, self.position, engine.update_freq)]
        frozen = (settings.get("freeze_backbone_epochs") or 0) - self.position.epoch + 1
        if frozen > 0:
            callbacks.append(FreezeBackbone(engine.network, engine.optimizer, frozen))
        if engine.average is not None:
            decay = engine.config["EMA"].get("decay")
            decay = 0.9999 if decay is None else decay
            callbacks.append(
                MovingAverage(engine.network, engine.average, decay, self.position, engine.update_freq)
            )
        return [*callbacks, StepEnd(self), EpochEnd(self)]

    def end_step(self) -> None:
        """Save if it is time to, or if the run is to stop; the end of an epoch does it by itself."""
        engine = self.engine
        if self.position.step % engine.update_freq or self.position.step == engine.steps:
            return
        if alone():
            self.stopping = self.stop.signal
        every = engine.settings.get("save_steps")
        updates = self.position.step // engine.update_freq
        if self.stopping:
            self.state.save_interrupted()
            self._interrupt()
        elif every and updates % every == 0:
            self.state.save_interrupted()

    def end_epoch(self, epoch: int, averages: dict[str, float]) -> None:
        """Evaluate if it is time to, and write ``best_model``, ``epoch_N`` and ``latest``."""
        engine, epochs = self.engine, self.engine.settings["epochs"]
        self.position.epoch, self.position.step = epoch + 1, 0
        logger.info(f"[Train][Epoch {epoch}/{epochs}][Avg]{format_values(averages)}")
        engine.bad_images.log(engine.train_loader)
        accuracy = 0.0
        due = epoch % (engine.settings.get("eval_interval") or 1) == 0
        if engine.evaluates and due and epoch >= (engine.settings.get("start_eval_epoch") or 0):
            try:
                accuracy = self._evaluate(epoch, averages)
            except Exception as error:  # a stop, or an image that cannot be read: the epoch is not lost
                self.state.save(LATEST, {"metric": 0.0, "epoch": epoch}, pending=averages)
                if isinstance(error, StopEvaluation):
                    self._interrupt()
                raise
        info = {"metric": accuracy, "epoch": epoch}
        interval = engine.settings.get("save_interval", 1)
        if interval is None or (interval > 0 and epoch % interval == 0):
            self.state.save(f"epoch_{epoch}", info)
        self.state.save(LATEST, info)
        if engine.on_epoch is not None and self.writer is not None:  # what it may raise loses nothing
            engine.on_epoch(self.writer, engine.average or engine.network, epoch)
        self.meters.mode = "train"
        if self.should_stop() and epoch < epochs:
            self._interrupt()

    def _evaluate(self, epoch: int, averages: dict[str, float]) -> float:
        """Evaluate the network and its average, and keep the best; returns the network's accuracy.

        A run that goes on from the best evaluates again, and so writes what else belongs to the epoch.
        """
        engine, state = self.engine, self.state
        accuracy = saved = engine.evaluation.run(epoch)
        if engine.average is not None:  # which is what the checkpoint holds
            engine.model.network = engine.average
            try:
                saved = engine.evaluation.run(epoch)
            finally:
                engine.model.network = engine.network
        if saved >= state.best["metric"]:
            state.best = {"metric": saved, "epoch": epoch}
            state.save(BEST, state.best, pending=averages)
        kind = "best metric" if engine.average is None else "best metric ema"
        logger.info(f"[Eval][Epoch {epoch}][{kind}: {state.best['metric']}]")
        if self.writer is not None:
            self.writer.add_scalar(tag="eval_acc", step=epoch, value=accuracy)
        return accuracy

    def should_stop(self) -> bool:
        """Whether a signal has come to any process; all ask together."""
        (self.stopping,) = agree(self.stop.signal)
        return bool(self.stopping)

    def stop_waiting(self) -> None:
        """The next batch does not come: a run that is to stop, and stands between two updates, stops now."""
        if self.stop.signal and alone() and self.position.step % self.engine.update_freq == 0:
            self.stopping = self.stop.signal
            self.state.save_interrupted()
            self._interrupt()

    def _interrupt(self) -> None:
        """End the training: all processes have come here, and the first has saved."""
        wait_for_all()
        prefix, number = self.engine.checkpoints.prefix(LATEST), self.stopping
        progress = describe_progress({"epoch": self.position.epoch - 1, "step": self.position.step})
        name = signal.Signals(number).name
        if self.state.is_empty:
            raise Interrupted(f"stopped by {name} before the first step; there is nothing to save", number)
        raise Interrupted(
            f"stopped by {name} after {progress}; saved in {prefix}; go on with -o Global.checkpoints={prefix}",
            number,
        )
