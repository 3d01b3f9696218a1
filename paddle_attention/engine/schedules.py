"""Learning-rate schedules under PaddleClas' names, from ``paddle.optimizer.lr``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from paddle.optimizer import lr as lr_module
from paddle.optimizer.lr import LRScheduler


class _Constant(LRScheduler):
    def get_lr(self) -> float:
        return self.base_lr


class _Schedule:
    """Lengths in steps (or in epochs, with ``by_epoch``) and the common warm-up."""

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        warmup_epoch: int = 0,
        warmup_start_lr: float = 0.0,
        by_epoch: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if last_epoch != -1:
            raise ValueError(
                f"last_epoch must be -1, but got {last_epoch}; a run goes on where Global.checkpoints stands"
            )
        self.epochs = epochs
        self.unit = 1 if by_epoch else steps_per_epoch
        warmup_epoch = min(warmup_epoch, epochs)
        self.warmup = round(warmup_epoch * self.unit)
        self.main = round((epochs - warmup_epoch) * self.unit)
        self.warmup_start_lr, self.by_epoch = warmup_start_lr, by_epoch

    def decay(self, peak: float, kind: type, *arguments: Any) -> LRScheduler:
        """``kind`` from ``peak`` over all that follows the warm-up; constant where nothing follows."""
        if self.main <= 0:
            return self.finish(_Constant(peak), peak)
        return self.finish(kind(peak, self.main, *arguments), peak)

    def finish(self, schedule: LRScheduler, peak: float) -> LRScheduler:
        if self.warmup > 0:
            if self.warmup_start_lr >= peak:
                raise ValueError(
                    f"warmup_start_lr must be less than the learning rate {peak} that it rises to, but got "
                    f"{self.warmup_start_lr}; leave out warmup_epoch for none"
                )
            schedule = lr_module.LinearWarmup(schedule, self.warmup, self.warmup_start_lr, peak)
        schedule.by_epoch = self.by_epoch
        return schedule


def _warmed_up(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(plan, ...)`` as a schedule that also takes the lengths and what all schedules take."""
    own = list(inspect.signature(function).parameters.values())[1:]
    common = list(inspect.signature(_Schedule).parameters.values())

    @functools.wraps(function)
    def build(**options: Any) -> LRScheduler:
        plan = _Schedule(**{p.name: options.pop(p.name) for p in common if p.name in options})
        return function(plan, **options)

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*common[:2], *own, *common[2:])]
    vars(build)["__signature__"] = inspect.Signature(parameters)  # which build_by_name reads
    return build


@_warmed_up
def _const_lr(plan: _Schedule, learning_rate: float) -> LRScheduler:
    return plan.finish(_Constant(learning_rate), learning_rate)


@_warmed_up
def _cosine(plan: _Schedule, learning_rate: float, eta_min: float = 0.0) -> LRScheduler:
    return plan.decay(learning_rate, lr_module.CosineAnnealingDecay, eta_min)


@_warmed_up
def _linear(
    plan: _Schedule, learning_rate: float, end_lr: float = 0.0, power: float = 1.0, cycle: bool = False
) -> LRScheduler:
    return plan.decay(learning_rate, lr_module.PolynomialDecay, end_lr, power, cycle)


@_warmed_up
def _step(plan: _Schedule, learning_rate: float, step_size: int, gamma: float = 0.1) -> LRScheduler:
    size = int(step_size * plan.unit)
    return plan.finish(lr_module.StepDecay(learning_rate, size, gamma), learning_rate)


@_warmed_up
def _piecewise(
    plan: _Schedule,
    decay_epochs: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
    learning_rate: float | None = None,
) -> LRScheduler:
    if learning_rate:  # as in PaddleClas, it replaces the lists: a tenth every 30 epochs
        decay_epochs = list(range(30, plan.epochs, 30)) or [plan.epochs]
        count = 2 if decay_epochs == [plan.epochs] else len(decay_epochs) + 1
        first = [learning_rate] * 2
        values = first if decay_epochs == [plan.epochs] else [learning_rate * 0.1**i for i in range(count)]
    if not decay_epochs or not values or len(values) != len(decay_epochs) + 1:
        raise ValueError(f"needs one value more than decay_epochs, but got {values!r} and {decay_epochs!r}")
    boundaries = [e * plan.unit for e in decay_epochs]
    return plan.finish(lr_module.PiecewiseDecay(boundaries, values), values[0])


SCHEDULES: dict[str, Callable[..., Any]] = {
    "ConstLR": _const_lr,
    "Constant": _const_lr,
    "Cosine": _cosine,
    "Linear": _linear,
    "Piecewise": _piecewise,
    "Step": _step,
}
