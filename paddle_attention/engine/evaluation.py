"""Evaluation over a data set, with PaddleClas' log lines."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import paddle

from ..config import DataError
from .callbacks import format_values
from .processes import share_statistics

if TYPE_CHECKING:
    from .loader import Loader
    from .metrics import Collected, Meters
    from .steps import Model

logger = logging.getLogger("ppcls")


class StopEvaluation(Exception):
    """Ends an evaluation because the run is to stop."""


class BadImages:
    """The list of images left out, ``bad_images.txt`` in ``directory``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.listed: set[str] = set()

    def log(self, loader: Loader) -> None:
        """Log how many images ``loader`` has left out, and add those that are not listed yet."""
        if not loader.skipped:
            return
        new = [message for message in loader.skipped if message not in self.listed]
        path = os.path.join(self.directory, "bad_images.txt")
        os.makedirs(self.directory, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{message}\n" for message in new)
        logger.warning(f"{sum(loader.skipped.values())} images left out so far, listed in {path}")
        self.listed.update(new)


class Evaluation:
    """Evaluates whatever network a model has.

    Args:
        model (Model): which has the meters as its metric.
        meters (Meters): losses and metrics.
        loader (Loader): the evaluation set.
        precision (callable): makes the context in which the network runs.
        every (int): batches between two log lines.
        bad_images (BadImages): where images left out are listed.
        should_stop (callable): asked after every batch.

    Attributes:
        results (dict): losses and metrics of the last one.
    """

    def __init__(
        self,
        model: Model,
        meters: Meters,
        loader: Loader,
        precision: Callable[..., Any],
        every: int,
        bad_images: BadImages,
        should_stop: Callable[[], bool],
    ) -> None:
        self.model, self.meters, self.loader = model, meters, loader
        self.precision, self.every, self.bad_images = precision, every, bad_images
        self.should_stop = should_stop
        self.results: dict[str, float] = {}

    def run(self, epoch: int) -> float:
        """Evaluate after ``epoch``; returns the value of the first metric.

        Raises:
            DataError: if no image can be read, or a result is not finite.
            StopEvaluation: if the run is to stop.
        """
        self.meters.mode = "eval"
        share_statistics(self.model.network)
        self.loader.epoch = max(epoch, 1)
        log = _Log(self, epoch)
        with paddle.no_grad(), self.precision():
            self.model.evaluate(self.loader, verbose=0, callbacks=[log])
        self.bad_images.log(self.loader)
        if log.averages is None:
            raise DataError(
                f"evaluation: none of {len(self.loader.dataset)} images can be read, such as "
                f"{next(iter(self.loader.skipped))}"
            )
        self.results = {**log.averages, **self.meters.set_results(log.collected)}
        for name, value in self.results.items():
            if not math.isfinite(value):
                raise DataError(
                    f"evaluation: {name} is {value}; the weights or the images hold numbers that are not finite"
                )
        logger.info(f"[Eval][Epoch {epoch}][Avg]{format_values(self.results)}")
        return self.results[self.meters.decisive]


class _Log(paddle.callbacks.Callback):
    """The lines of an evaluation; keeps the averages, which ``paddle.Model`` resets."""

    def __init__(self, evaluation: Evaluation, epoch: int) -> None:
        super().__init__()
        self.evaluation, self.epoch, self.steps = evaluation, epoch, len(evaluation.loader)
        self.ready, self.cost, self.reader, self.batches = time.perf_counter(), 0.0, 0.0, 0
        self.averages: dict[str, float] | None = None
        self.collected: Collected = []

    def on_eval_batch_begin(self, step: int, logs: Any = None) -> None:
        self.reader += time.perf_counter() - self.ready

    def on_eval_batch_end(self, step: int, logs: Any = None) -> None:
        if self.evaluation.should_stop():
            raise StopEvaluation
        meters = self.evaluation.meters
        self.averages, self.collected = meters.averages(), meters.collected
        self.cost += time.perf_counter() - self.ready
        self.batches += 1
        if step % self.evaluation.every == 0:
            cost = self.cost / self.batches
            logger.info(
                f"[Eval][Epoch {self.epoch}][Iter: {step}/{self.steps}]{format_values(meters.latest)}, "
                f"batch_cost: {cost:.5f}s, reader_cost: {self.reader / self.batches:.5f}, "
                f"ips: {logs['batch_size'] / cost:.5f} images/sec"
            )
        self.ready = time.perf_counter()
