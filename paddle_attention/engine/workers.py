"""Who reads the batches of a :class:`~.loader.Loader`: processes that hand images over in shared memory, or a thread."""

from __future__ import annotations

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
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker, shared_memory
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .batches import Batch

_SHARED_MEMORY = "/dev/shm"
_BLOCK = "paddle_attention_"  # then the parent's process number
_worker: dict[str, Any] = {}
_numbers = itertools.count()


def start_pool(processes: int, reader: Callable[..., Any], use_shared_memory: bool) -> Pool:
    """An executor of :func:`work` in ``processes`` processes, or of ``reader`` in a thread where that is 0.

    Args:
        processes (int): how many.
        reader (callable): ``(seed, epoch, number, indices) -> (images, labels, skipped)``.
        use_shared_memory (bool): hand images over in shared memory, where there is enough.
    """
    if not processes:
        return OneThread()
    resource_tracker.ensure_running()  # one for all processes: it frees what a dead one leaves
    free_shared_memory()
    shares = use_shared_memory and os.path.isdir(_SHARED_MEMORY)
    return ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("fork"),
        _begin_work,
        (reader, _share if shares else _as_it_is, os.getpid()),
    )


def stop_pool(pool: Pool) -> None:
    """End a pool at once, also where one of its processes is stuck in a file system that does not answer."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.kill()
    if reader := getattr(getattr(pool, "_call_queue", None), "_reader", None):
        reader.close()  # Python 3.10 would wait for somebody to read what is queued
    pool.shutdown(wait=False, cancel_futures=True)
    if processes:
        for process in processes:
            process.join(1)
        free_shared_memory()


class OneThread:
    """An executor of one thread which, other than ``ThreadPoolExecutor``'s, never keeps the process from ending."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        future: Future = Future()
        self._tasks.put((future, function, arguments))
        return future

    def _work(self) -> None:
        while task := self._tasks.get():
            future, function, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(error)

    def shutdown(self, **_: Any) -> None:
        self._tasks.put(None)


Pool = OneThread | ProcessPoolExecutor


# --- in the worker processes -------------------------------------------------------------


def start_worker() -> None:
    """OpenCV's thread pool does not survive the fork that starts a reading process."""
    import cv2

    cv2.setNumThreads(0)


def _begin_work(reader: Callable[..., Any], hand_over: Callable[..., Any], parent: int) -> None:
    start_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which may reach the whole group as well
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(reader=reader, hand_over=hand_over, parent=parent)


def _end_with(parent: int) -> None:
    """End this process when ``parent`` has ended, in whatever way."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def work(seed: tuple[int, ...], epoch: int, number: int, indices: list[int]) -> tuple[Any, ...]:
    images, labels, skipped = _worker["reader"](seed, epoch, number, indices)
    return None if images is None else _worker["hand_over"](images), labels, skipped


# --- from process to process -------------------------------------------------------------


def _as_it_is(array: np.ndarray) -> np.ndarray:
    return array


def _share(array: np.ndarray) -> Any:
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


def free_shared_memory() -> None:
    """Blocks of workers that were killed before anybody knew of them, of this process and of dead ones."""
    for path in glob.glob(os.path.join(_SHARED_MEMORY, f"{_BLOCK}*")):
        parent = os.path.basename(path).removeprefix(_BLOCK).partition("_")[0]
        with contextlib.suppress(OSError, ValueError):  # the latter: it is empty yet
            if int(parent) == os.getpid() or not os.path.exists(f"/proc/{parent}"):
                # By its own unlink, which tells the resource tracker: that would complain at the end.
                block = shared_memory.SharedMemory(os.path.basename(path))
                block.close()
                block.unlink()


def take(result: tuple[Any, ...]) -> Batch:
    """What :func:`work` returned, with the images as an array; the shared memory is freed."""
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


def give_back(future: Future) -> None:
    """Free the shared memory of a batch that nobody will take."""
    if not future.cancelled() and future.exception() is None:
        with contextlib.suppress(FileNotFoundError):  # closing the loader has freed it
            take(future.result())
