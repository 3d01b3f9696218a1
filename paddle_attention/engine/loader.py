"""The batches of a data set: repeatable, resumable at any batch, and never waiting for ever.

All random numbers of an image are a function of the run's seed, the epoch and the
image, and those of a batch of the seed, the epoch and the batch. So neither the
number of processes that read nor the place where a run was interrupted changes
what an epoch holds, and no generator's state has to be saved.

A ``concurrent.futures`` pool reads ahead: a thread where there are no worker processes.
It lives as long as the loader, hands errors on as they are, and says so when one of
its processes dies.
"""

import collections
import contextlib
import glob
import itertools
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker, shared_memory

import numpy as np
import paddle
from paddle.io import DataLoader

from ..config import DataError
from ..preprocess.generators import derive_seed, set_seed

_AHEAD = 2  # batches in preparation for every worker process
_SUBSTITUTES = 1000  # images tried for a batch none of whose own can be read
_SHARED_MEMORY = "/dev/shm"
_BLOCK = "paddle_attention_"  # then the parent's process number


class BatchReader:
    """Reads batches of ``dataset``: decodes, transforms, stacks and mixes.

    Args:
        dataset: has ``read(index) -> (image, label)``, which raises :class:`DataError`,
            and ``name(index)``.
        mixing (list of callable): functions of the stacked ``(images, labels)``.
        skip (bool): leave out an image that cannot be read instead of raising.
        substitute (bool): if no image of a batch is left, take one that follows in the data set, so
            that every batch of a training exists.
    """

    def __init__(self, dataset, mixing=(), skip=False, substitute=False):
        self.dataset, self.mixing = dataset, list(mixing)
        self.skip, self.substitute = skip, substitute

    def __call__(self, seed, epoch, number, indices):
        """Read the images ``indices`` as batch ``number``.

        Returns:
            tuple: images ``[n, C, H, W]``, labels ``[n]`` (mixed: ``[n, classes]``), and the
            messages about images left out; images and labels are None where none is left.

        Raises:
            DataError: naming the file, for an image that cannot be read, and for images of
                different sizes.
        """
        samples, kept, skipped = [], [], []
        for index in indices:
            sample, message = self._read(seed, epoch, index)
            if sample is None:
                skipped.append(message)
            else:
                samples.append(sample)
                kept.append(index)
        if not samples and self.substitute:
            samples, kept = self._read_another(seed, epoch, indices, skipped[0])
        if not samples:
            return None, None, skipped
        self._check_shapes(samples, kept)
        images = np.stack([image for image, _ in samples])
        labels = np.array([label for _, label in samples], dtype="int64")
        set_seed(*seed, epoch, 1, number)
        for mix in self.mixing:
            images, labels = mix(images, labels)
        return images, labels, skipped

    def _read(self, seed, epoch, index):
        """``(sample, None)``, or ``(None, message)`` of an image that is left out."""
        set_seed(*seed, epoch, 0, index)
        try:
            return self.dataset.read(index), None
        except DataError as error:
            if not self.skip:
                raise
            return None, str(error)

    def _read_another(self, seed, epoch, indices, message):
        """``([sample], [index])`` of one that is not of the batch; those left out count in batches of their own."""
        number, tried = len(self.dataset), set(indices)
        for offset in range(1, min(number, _SUBSTITUTES)):
            index = (indices[-1] + offset) % number
            if index not in tried:
                tried.add(index)
                sample, _ = self._read(seed, epoch, index)
                if sample is not None:
                    return [sample], [index]
        raise DataError(f"none of {len(tried)} images can be read, such as {message}")

    def _check_shapes(self, samples, indices):
        first = samples[0][0].shape
        for (image, _), index in zip(samples, indices, strict=True):
            if image.shape != first:
                raise DataError(
                    f"images of a batch must have one size: {self.dataset.name(indices[0])} is "
                    f"{_size(first)}, {self.dataset.name(index)} is {_size(image.shape)}; "
                    "add ResizeImage and CropImage to transform_ops"
                )


def _size(shape):
    return f"{shape[2]}x{shape[1]}" if len(shape) == 3 else f"of shape {list(shape)}"


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

    def __init__(self, reader, batch_sampler, workers=0, use_shared_memory=True):
        super().__init__(reader.dataset, batch_sampler=batch_sampler, return_list=True, num_workers=0)
        self.reader, self.workers = reader, workers
        self.hand_over = _share if use_shared_memory and os.path.isdir(_SHARED_MEMORY) else _as_it_is
        self.seed, self.epoch, self.first, self.limit = (0,), 1, 0, None
        self.current, self.skipped = [], {}
        self.on_wait = lambda: None
        self._pool = None

    def __len__(self):
        return len(self.batch_sampler) if self.limit is None else self.limit

    def __iter__(self):
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

    def names(self):
        """Names of the images of the batch given last."""
        return [self.dataset.name(index) for index in self.current]

    def close(self):
        """End the worker processes."""
        if self._pool is not None:
            # At once, also where one is stuck in a file system that does not answer.
            processes = list((getattr(self._pool, "_processes", None) or {}).values())
            for process in processes:
                process.kill()
            if reader := getattr(getattr(self._pool, "_call_queue", None), "_reader", None):
                reader.close()  # Python 3.10 would wait for somebody to read what is queued
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            if processes:
                for process in processes:
                    process.join(1)
                _free_shared_memory()

    def _choose(self, epoch):
        """The indices of every batch of ``epoch``."""
        np.random.seed(derive_seed(*self.seed, epoch, 2))  # for samplers that draw from NumPy's generator
        if hasattr(self.batch_sampler, "set_epoch"):
            self.batch_sampler.set_epoch(epoch - 1)
        return [[int(index) for index in batch] for batch in self.batch_sampler]

    def _read_ahead(self, epoch, plan):
        pool, pending = self._start(), collections.deque()
        plan = iter(plan)
        try:
            while True:
                while len(pending) < _AHEAD * max(self.workers, 1) and (item := next(plan, None)):
                    work = _work if self.workers else self.reader
                    pending.append((item[1], pool.submit(work, self.seed, epoch, *item)))
                if not pending:
                    return
                self._wait_for(pending[0][1])
                result = pending[0][1].result()
                pending.popleft()
                yield _take(result)
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
                    future.add_done_callback(_give_back)

    def _wait_for(self, future):
        while True:
            try:
                future.exception(timeout=1)
                return
            except FutureTimeout:
                self.on_wait()

    def _start(self):
        if self._pool is None and not self.workers:
            self._pool = _Thread()
        elif self._pool is None:
            resource_tracker.ensure_running()  # one for all processes: it frees what a dead one leaves
            _free_shared_memory()
            self._pool = ProcessPoolExecutor(
                self.workers,
                multiprocessing.get_context("fork"),
                _begin_work,
                (self.reader, self.hand_over, os.getpid()),
            )
        return self._pool


class _Thread:
    """An executor of one thread which, other than ``ThreadPoolExecutor``'s, never keeps the process from ending."""

    def __init__(self):
        self._tasks = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, function, *arguments):
        future = Future()
        self._tasks.put((future, function, arguments))
        return future

    def _work(self):
        while task := self._tasks.get():
            future, function, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(error)

    def shutdown(self, **_):
        self._tasks.put(None)


# --- in the worker processes -------------------------------------------------------------

_worker: "dict[str, object]" = {}
_numbers = itertools.count()


def start_worker():
    """OpenCV's thread pool does not survive the fork that starts a reading process."""
    import cv2

    cv2.setNumThreads(0)


def _begin_work(reader, hand_over, parent):
    start_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which may reach the whole group as well
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(reader=reader, hand_over=hand_over, parent=parent)


def _end_with(parent):
    """End this process when ``parent`` has ended, in whatever way."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(seed, epoch, number, indices):
    images, labels, skipped = _worker["reader"](seed, epoch, number, indices)
    return None if images is None else _worker["hand_over"](images), labels, skipped


# --- from process to process -------------------------------------------------------------


def _as_it_is(array):
    return array


def _share(array):
    """``array`` in shared memory, as ``(name, shape, dtype)``; itself where there is too little."""
    if shutil.disk_usage(_SHARED_MEMORY).free < 2 * array.nbytes + (1 << 20):
        return array
    name = f"{_BLOCK}{_worker['parent']}_{os.getpid()}_{next(_numbers)}"
    block = shared_memory.SharedMemory(name, create=True, size=array.nbytes)
    try:
        np.ndarray(array.shape, array.dtype, block.buf)[...] = array
        return block.name, array.shape, array.dtype.str
    finally:
        block.close()


def _free_shared_memory():
    """Blocks of workers that were killed before anybody knew of them, of this process and of dead ones."""
    for path in glob.glob(os.path.join(_SHARED_MEMORY, f"{_BLOCK}*")):
        parent = os.path.basename(path).removeprefix(_BLOCK).partition("_")[0]
        with contextlib.suppress(OSError, ValueError):  # the latter: it is empty yet
            if int(parent) == os.getpid() or not os.path.exists(f"/proc/{parent}"):
                # By its own unlink, which tells the resource tracker: that would complain at the end.
                block = shared_memory.SharedMemory(os.path.basename(path))
                block.close()
                block.unlink()


def _take(result):
    """What :func:`_work` returned, with the images as an array; the shared memory is freed."""
    images, labels, skipped = result
    if isinstance(images, tuple):
        name, shape, dtype = images
        block = shared_memory.SharedMemory(name)
        try:
            images = np.ndarray(shape, dtype, block.buf).copy()
        finally:
            block.close()
            block.unlink()
    return images, labels, skipped


def _give_back(future):
    """Free the shared memory of a batch that nobody will take."""
    if not future.cancelled() and future.exception() is None:
        with contextlib.suppress(FileNotFoundError):  # closing the loader has freed it
            _take(future.result())
