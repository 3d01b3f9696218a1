"""Training steps: where a run is, which random numbers it draws, and what happens to a loss that is no number."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ..preprocess.generators import derive_seed

logger = logging.getLogger("ppcls")
_NAMED_FILES = 3  # of a batch, in a message


class NonFiniteError(ValueError):
    """A loss, or weights, that are no numbers any more."""


@dataclass
class Position:
    """Where a training is: ``step`` batches of ``epoch``, which counts from 1, are done."""

    epoch: int = 1
    step: int = 0


class RandomNumbers:
    """All random numbers of a step are a function of the run's seed, the process and the step.

    So a run that goes on at a step draws what the unbroken one would have drawn, with any
    Paddle (2.6 cannot save its CPU generator) and on any device.

    Args:
        seed (int or None): ``Global.seed``; None for another one in every run.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed if seed is not None else int.from_bytes(os.urandom(4), "little")

    def start(self, position: Position) -> None:
        """Set all generators for the batch that comes after ``position``."""
        number = derive_seed(self.seed, 3, paddle.distributed.get_rank(), position.epoch, position.step)
        paddle.seed(number)
        np.random.seed(number)
        random.seed(number)


class SkipBatch(Exception):
    """Ends a step whose loss or gradients are not finite, before it changes a weight."""


class LossGuard:
    """Looks at the loss and the gradients of every training step.

    Args:
        policy (str, int or None): ``'stop'`` (also None), or how many batches may be skipped.
        directory (str): where the names of a bad batch's images are written.
        position (Position): where the training is.
    """

    def __init__(self, policy: str | int | None, directory: str, position: Position) -> None:
        self.allowed = policy if isinstance(policy, int) else 0
        self.directory, self.position, self.skipped = directory, position, 0
        self.names: Callable[[], list[str]] = list  # a function of nothing: the images of the batch

    def refuse(self, what: str) -> None:
        """Say that ``what`` is not finite.

        Raises:
            SkipBatch: if the batch may be skipped.
            NonFiniteError: naming the step and the images, if it may not.
        """
        rank = paddle.distributed.get_rank()
        suffix = f"_{rank}" if rank else ""
        names, path = self.names(), os.path.join(self.directory, f"nonfinite_batch{suffix}.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in names)
        more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
        message = (
            f"{what} at step {self.position.step} of epoch {self.position.epoch}; the images of this process: "
            f"{', '.join(names[:_NAMED_FILES])}{more} (all in {path})"
        )
        if self.skipped < self.allowed:
            self.skipped += 1
            logger.warning(f"{message}; batch skipped, {self.skipped} of at most {self.allowed}")
            raise SkipBatch
        limit = f", after {self.skipped} skipped batches" if self.skipped else ""
        raise NonFiniteError(
            f"{message}{limit}. Nothing of this step was saved. Lower Optimizer.lr.learning_rate, warm up longer, "
            "set clip_norm, look at these images; Global.nan_policy: N skips up to N such batches"
        )

    def check_gradients(self, parameters: list[Tensor]) -> None:
        """:meth:`refuse` gradients that are not finite: an activation can hide them from the loss.

        They are those of all processes together, so that all come to the same conclusion.
        """
        gradients = {p.name: p.grad for p in parameters if p.grad is not None}
        if not gradients:
            return
        total = paddle.add_n([g.sum().astype("float32") for g in gradients.values()])
        if not bool(paddle.isfinite(total)):  # or their sum has overflowed: look closely
            for name, gradient in gradients.items():
                if not bool(paddle.isfinite(gradient).all()):
                    self.refuse(f"the gradient of {name} is not finite")


class Model(paddle.Model):
    """``paddle.Model`` with repeatable steps, any of which may end with :class:`SkipBatch`.

    Attributes:
        skipped (bool): whether the last one did.
    """

    skipped = False

    def watch(self, begin: Callable[..., Any], updated: Callable[..., Any], guard: LossGuard) -> None:
        """Call ``begin()`` before every step and ``updated()`` after every update, whose gradients ``guard`` sees."""
        self._begin, self._guard = begin, guard
        self._keep_statistics = guard.allowed > 0
        self._before_update: Sequence[tuple[Tensor, Tensor]] = ()
        scales = self._adapter._amp_level != "O0" and paddle.get_device() != "cpu"
        # A dynamic loss scale is looked after by its scaler; a static one passes over the update in silence.
        dynamic = self._adapter._amp_configs.get("use_dynamic_loss_scaling", False)
        self._static_scale = scales and not dynamic
        if self._optimizer is None:
            return
        minimize, parameters = self._optimizer.minimize, list(self.network.parameters())

        def checked(*arguments: Any, **options: Any) -> Any:
            if not scales:
                guard.check_gradients(parameters)
            result = minimize(*arguments, **options)
            updated()
            return result

        self._optimizer.minimize = checked

    def train_batch(self, inputs: Any, labels: Any = None, update: bool = True) -> Any:
        self._begin()
        self.skipped = False
        before = self._statistics() if self._keep_statistics else ()
        self._before_update = self._before_update or before
        try:
            result = super().train_batch(inputs, labels, update)
            if update and self._static_scale and bool(self._scaler._found_inf):
                self._guard.refuse("the gradient is not finite")
            return result
        except SkipBatch:
            # The last batch of an accumulated update takes the others with it.
            for value, old in self._before_update if update else before:
                paddle.assign(old, value)
            self.skipped = True
            if update:
                self._optimizer.clear_grad()
            return [np.full([1], np.nan, "float32")], [[0]]
        finally:
            if update:
                self._before_update = ()

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        learned = {id(p) for p in self.network.parameters() if not p.stop_gradient}
        state = self.network.state_dict(use_hook=False).values()
        return [(value, value.clone()) for value in state if id(value) not in learned]
