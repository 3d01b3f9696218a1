"""A folder that one process at a time writes into."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]
from .errors import FolderInUseError, explain

PATIENCE = 3  # seconds to wait for another process


class FolderLock:
    """Keeps other processes from writing into ``directory``; the system releases it when this one ends.

    Args:
        directory (str): is made if it is missing.
        purpose (str): for the message, such as ``'training'``.
        name (str): of the lock's file, for several kinds of use of one folder.
        patience (float): seconds to try; what a killed process has started ends a moment later.

    Raises:
        FolderInUseError: if another process has it.
    """

    NAME = ".lock"

    def __init__(self, directory: str, purpose: str, name: str = NAME, patience: float = PATIENCE) -> None:
        with explain(directory):
            os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, name)
        with explain(self.path):
            self.file = open_alone(self.path, directory, patience)
            self.file.write(f"{purpose}, process {os.getpid()} on {socket.gethostname()}\n".encode())
            self.file.flush()

    def release(self) -> None:
        """Let others in."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def open_alone(path: str, target: str, patience: float = 0) -> BinaryIO:
    """``path`` opened for writing, empty, by this process alone; ``target`` is for the message."""
    deadline = time.monotonic() + patience
    while True:
        file = open(path, "a+b")  # noqa: SIM115 (given to the caller)
        try:
            if fcntl is not None:
                _lock(file, target)
        except FolderInUseError:
            file.close()
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)
            continue
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    file.truncate(0)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever had it has just renamed or removed it


def _lock(file: BinaryIO, target: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            holder = file.read(200).decode("utf-8", "replace").strip() if target != file.name else ""
            raise FolderInUseError(
                f"{target} is in use by {holder if holder.isprintable() and holder else 'another process'}; "
                "wait for it, or choose another place"
            ) from error
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise
