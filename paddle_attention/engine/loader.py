"""The batches of a data set: repeatable, resumable at any batch, and never waiting for ever.

A ``concurrent.futures`` pool reads ahead: a thread where there are no worker processes.
It lives as long as the loader, hands errors on as they are, and says so when one of
its processes dies.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.io import DataLoader

from ..config import DataError
from ..preprocess.generators import derive_seed
from .workers import give_back, start_pool, stop_pool, take, work

if TYPE_CHECKING:
    from .batches import Batch, BatchReader
    from .workers import Pool

_AHEAD = 2  # batches in preparation for every worker process


class Loader(DataLoader):
    """The batches of one epoch after the other, as ``[images, labels]`` tensors.

    It is a ``paddle.io.DataLoader`` for those who ask (``paddle.Model`` evaluates in
    several processes only with one), but reads by itself.

    Args:
        reader (BatchReader): reads a batch.
        batch_sampler (paddle.io.BatchSampler): chooses the images.
        workers (int): processes that read ahead; 0 for a thread.
        use_shared_memory (bool): hand batches over in shared memory, where there is enough.

    Attributes:
        seed (tuple of int): what random numbers are derived from.
        epoch (int): of the next iteration, counted from 1; every iteration adds 1.
        first (int): the batch at which the next iteration begins; 0 again after it.
        limit (int or None): batches of an epoch, if not all.
        current (list of int): indices of the images of the batch given last.
        skipped (dict): messages about images left out so far, to how often.
        on_wait (callable): called every second in which the next batch is not there; may raise.
    """

    def __init__(
        self, reader: BatchReader, batch_sampler: Any, workers: int = 0, use_shared_memory: bool = True
    ) -> None:
        super().__init__(reader.dataset, batch_sampler=batch_sampler, return_list=True, num_workers=0)
        self.reader, self.workers = reader, workers
        self.shared = use_shared_memory
        self.seed: tuple[int, ...] = (0,)
        self.epoch, self.first = 1, 0
        self.limit: int | None = None
        self.current: list[int] = []
        self.skipped: dict[str, int] = {}
        self.on_wait = lambda: None
        self._pool: Pool | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler) if self.limit is None else self.limit

    def __iter__(self) -> Iterator[list[Tensor]]:
        epoch, first = self.epoch, self.first
        self.epoch, self.first = epoch + 1, 0
        rank, ranks = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        # Numbered over all processes: each mixes its batches in its own way.
        plan = [(i * ranks + rank, indices) for i, indices in enumerate(self._choose(epoch))]
        plan = plan[first : self.limit]
        # Closed with this generator, also when that is left early.
        with contextlib.closing(self._read_ahead(epoch, plan)) as batches:
            for (_, self.current), (images, labels, skipped) in zip(plan, batches, strict=True):
                for message in skipped:
                    self.skipped[message] = self.skipped.get(message, 0) + 1
                if images is not None:
                    yield [paddle.to_tensor(images), paddle.to_tensor(labels)]

    def names(self) -> list[str]:
        """Names of the images of the batch given last."""
        return [self.dataset.name(index) for index in self.current]

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            stop_pool(self._pool)
            self._pool = None

    def _choose(self, epoch: int) -> list[list[int]]:
        """The indices of every batch of ``epoch``."""
        np.random.seed(derive_seed(*self.seed, epoch, 2))  # for samplers that draw from NumPy's generator
        if hasattr(self.batch_sampler, "set_epoch"):
            self.batch_sampler.set_epoch(epoch - 1)
        return [[int(index) for index in batch] for batch in self.batch_sampler]

    def _read_ahead(self, epoch: int, plan: Iterable[tuple[int, list[int]]]) -> Generator[Batch, None, None]:
        pool, plan = self._start(), iter(plan)
        pending: collections.deque[tuple[list[int], Future]] = collections.deque()
        try:
            while True:
                while len(pending) < _AHEAD * max(self.workers, 1) and (item := next(plan, None)):
                    task = work if self.workers else self.reader
                    pending.append((item[1], pool.submit(task, self.seed, epoch, *item)))
                if not pending:
                    return
                self._wait_for(pending[0][1])
                result = pending[0][1].result()
                pending.popleft()
                yield take(result)
        except BrokenProcessPool as error:
            self.close()
            near = f" near {self.dataset.name(pending[0][0][0])}" if pending else ""
            raise DataError(
                f"a process that reads images has died{near}; the system kills processes when memory runs out: "
                "lower DataLoader's num_workers or batch_size"
            ) from error
        finally:
            for _, future in pending:
                if not future.cancel():
                    future.add_done_callback(give_back)

    def _wait_for(self, future: Future) -> None:
        while True:
            try:
                future.exception(timeout=1)
                return
            except FutureTimeout:
                self.on_wait()

    def _start(self) -> Pool:
        if self._pool is None:
            self._pool = start_pool(self.workers, self.reader, self.shared)
        return self._pool
