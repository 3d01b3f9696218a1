"""One file: read with its place, written in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from .errors import explain
from .lock import open_alone

STAGED = ".staged"

_CHUNK = 1 << 20


def write_atomically(path: str, write: Callable[[BinaryIO], object], mode: int | None = None) -> None:
    """Let ``write(file)`` write ``path`` under its staging name, which it then replaces in one step.

    Args:
        path (str): the file; its folder is made if it is missing.
        write (callable): gets the open binary file.
        mode (int, optional): permissions; by default those of a new file.

    Raises:
        OSError: naming ``path`` and saying that the old file is kept.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    staged = path + STAGED
    with explain(path), open_alone(staged, path) as file, clean_up([staged]):
        write(file)
        file.flush()
        os.fsync(file.fileno())
        if mode is not None:
            os.chmod(staged, mode)
        os.replace(staged, path)
    sync_directory(os.path.dirname(path))


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield ``(number, text)`` of the lines of a UTF-8 file that are not empty.

    White space at the ends and a byte-order mark are left out.

    Raises:
        ValueError: naming file and line, for what is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: not UTF-8 text ({error.reason}): {line[:60]!r}"
                ) from error
            if text:
                yield number, text


def read_regular_file(path: str) -> bytes:
    """The bytes of a file; raises OSError for what is none, such as a pipe, on which reading would wait."""
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise OSError(errno.EINVAL, "not a regular file", path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    with open(path, "rb") as file:
        return file.read()


def sync_directory(directory: str) -> None:
    """Bring the names in ``directory`` to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(directory or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path: str) -> None:
    """Bring the content of ``path`` to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256(path: str) -> str:
    """The checksum of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def clean_up(paths: Iterable[str]) -> Iterator[None]:
    """Remove ``paths`` if the block fails."""
    try:
        yield
    except BaseException:
        for path in paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise
