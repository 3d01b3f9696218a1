"""``paddle.callbacks`` that log, step, average, evaluate and save the way PaddleClas does."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import paddle
from paddle import nn
from paddle.base.layer_helper import LayerHelper
from tqdm import tqdm

from ..checkpoint import own_parts

if TYPE_CHECKING:
    from .metrics import Meters
    from .steps import Position
    from .training import Training

logger = logging.getLogger("ppcls")


def format_values(values: Mapping[str, float]) -> str:
    """``{'top1': 0.5}`` to ``'top1: 0.50000'``."""
    return ", ".join(f"{name}: {value:.5f}" for name, value in values.items())


class StepSchedule(paddle.callbacks.LRScheduler):
    """Steps the schedule after every update, or every epoch where it counts epochs."""

    def __init__(self, schedule: Any, position: Position, update_freq: int) -> None:
        super().__init__()
        self.schedule, self.position, self.update_freq = schedule, position, update_freq

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.schedule.by_epoch:
            self.schedule.step()

    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        if not self.schedule.by_epoch and self.position.step % self.update_freq == 0:
            self.schedule.step()


class MovingAverage(paddle.callbacks.Callback):
    """Exponential moving average of all weights and statistics, after every update."""

    def __init__(
        self, network: nn.Layer, average: nn.Layer, decay: float, position: Position, update_freq: int
    ) -> None:
        super().__init__()
        self.network, self.average = network, average
        self.decay, self.position, self.update_freq = decay, position, update_freq

    @paddle.no_grad()
    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        if self.position.step % self.update_freq or self.model.skipped:
            return
        source = self.network.state_dict()
        for key, value in self.average.state_dict().items():
            new = source[key]
            if new.is_floating_point():
                new = self.decay * value + (1.0 - self.decay) * new
            paddle.assign(new, value)


class FreezeBackbone(paddle.callbacks.Callback):
    """Trains attention and classifier alone in the first epochs.

    The backbone's weights are skipped by the optimizer, so that neither its
    momentum nor weight decay moves them, and its running statistics are used as they
    are. Gradients are still computed: all processes then exchange the same ones.
    """

    def __init__(self, network: nn.Layer, optimizer: Any, epochs: int) -> None:
        super().__init__()
        self.network, self.optimizer, self.epochs = network, optimizer, epochs

    def on_train_begin(self, logs: Any = None) -> None:
        own = own_parts(self.network)
        self.parameters = [
            p
            for name, p in self.network.named_parameters()
            if not p.stop_gradient and not name.startswith(own)
        ]
        layers = [x for n, x in self.network.named_sublayers() if not f"{n}.".startswith(own)]
        self.statistics = [(x, x._use_global_stats) for x in layers if hasattr(x, "_use_global_stats")]
        for layer, _ in self.statistics:
            layer._use_global_stats = True
        # The momentum of what is skipped, from the start: a checkpoint without it cannot be resumed.
        if getattr(self.optimizer, "helper", self) is None:  # which Paddle 2.6 makes in the first step
            self.optimizer.helper = LayerHelper(type(self.optimizer).__name__)
        block = paddle.static.default_main_program().global_block()
        self.optimizer._create_accumulators(block, self.parameters)
        self.originals = {name: getattr(self.optimizer, name) for name in ("step", "minimize")}
        for name, original in self.originals.items():
            setattr(self.optimizer, name, self._skipping(original))
        logger.info(f"backbone frozen for {self.epochs} epochs: {len(self.parameters)} parameters")

    def _skipping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            for parameter in self.parameters:
                parameter.stop_gradient = True
            try:
                return original(*arguments, **options)
            finally:
                for parameter in self.parameters:
                    parameter.stop_gradient = False

        return call

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 == self.epochs:
            logger.info("backbone trains from now on")
            self.release()

    def release(self) -> None:
        """Leave everything as it was before."""
        for name, original in self.originals.items():
            setattr(self.optimizer, name, original)
        for layer, used in self.statistics:
            layer._use_global_stats = used
        self.originals, self.statistics = {}, []


class Log(paddle.callbacks.Callback):
    """PaddleClas' training log lines, VisualDL curves and a progress bar.

    Args:
        meters (Meters): running averages.
        schedule: the learning-rate schedule.
        position (Position): where the training is; this callback moves it on.
        epochs, steps (int): the last epoch, and the steps of each.
        every (int): steps between two lines.
        writer (visualdl.LogWriter or None): for the curves.
        print_mem_info (bool): add the peak GPU memory to the lines.
        on_step (callable or None): called before every step, for a profiler.
    """

    def __init__(
        self,
        meters: Meters,
        schedule: Any,
        position: Position,
        epochs: int,
        steps: int,
        every: int,
        writer: Any,
        print_mem_info: bool,
        on_step: Callable[..., Any] | None,
    ) -> None:
        super().__init__()
        self.meters, self.schedule, self.position = meters, schedule, position
        self.epochs, self.steps, self.every = epochs, steps, every
        self.writer, self.print_mem_info, self.on_step = writer, print_mem_info, on_step
        self.batches, self.batch_time, self.reader_time = 0, 0.0, 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        screen = sys.stderr.isatty()
        self.bar = tqdm(
            total=(self.epochs - self.position.epoch + 1) * self.steps,
            initial=self.position.step,
            unit="step",
            mininterval=0.2 if screen else 15,
            dynamic_ncols=screen,
            disable=paddle.distributed.get_rank() != 0,
        )
        self.ready = time.perf_counter()

    def release(self) -> None:
        """Close the progress bar."""
        if hasattr(self, "bar"):
            self.bar.close()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar.set_description(f"epoch {self.position.epoch}/{self.epochs}")
        self.ready = time.perf_counter()

    def on_train_batch_begin(self, step: int, logs: Any = None) -> None:
        if self.on_step is not None:
            self.on_step()
        self.lr = self.schedule.last_lr
        self.reader_time += time.perf_counter() - self.ready

    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self.batch_time += now - self.ready
        self.batches += 1
        self.bar.update()
        if self.position.step % self.every == 0:
            self._line(self.position.step, logs["batch_size"])
        self.position.step += 1
        self.ready = time.perf_counter()

    def _line(self, step: int, batch_size: int) -> None:
        values, epoch = self.meters.averages(), self.position.epoch
        cost = self.batch_time / self.batches
        reader = self.reader_time / self.batches
        left = (self.epochs - epoch + 1) * self.steps - step
        name = f"lr({type(self.schedule).__name__})"
        memory = ""
        if self.print_mem_info and paddle.device.is_compiled_with_cuda():
            reserved = paddle.device.cuda.max_memory_reserved() / 1024**2
            allocated = paddle.device.cuda.max_memory_allocated() / 1024**2
            memory = f", max_mem_reserved: {reserved:.2f} MB, max_mem_allocated: {allocated:.2f} MB"
        logger.info(
            f"[Train][Epoch {epoch}/{self.epochs}][Iter: {step}/{self.steps}]"
            f"{name}: {self.lr:.8f}, {format_values(values)}, "
            f"batch_cost: {cost:.5f}s, reader_cost: {reader:.5f}, "
            f"ips: {batch_size / cost:.5f} samples/s, "
            f"eta: {datetime.timedelta(seconds=int(left * cost))}{memory}"
        )
        if self.writer is not None:
            index = (epoch - 1) * self.steps + step + 1
            self.writer.add_scalar(tag=name, step=index, value=self.lr)
            for key, value in values.items():
                self.writer.add_scalar(tag=f"train_{key}", step=index, value=value)
        self.batches, self.batch_time, self.reader_time = 0, 0.0, 0.0


class StepEnd(paddle.callbacks.Callback):
    """Ends a step of :class:`Training`: checkpoints, and the end of a run that is to stop."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training = training

    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        self.training.end_step()


class EpochEnd(paddle.callbacks.Callback):
    """Ends an epoch of :class:`Training`: evaluation, then checkpoints."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training = training

    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        self.averages = self.training.meters.averages()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.training.end_epoch(self.training.position.epoch, self.averages)
