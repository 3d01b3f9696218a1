"""What can be wrong with files, in one line each."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

_FULL_OR_CLOSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


class DamagedFileError(ValueError):
    """A file that is not what its manifest says."""


class FolderInUseError(OSError):
    """Another process writes into this folder."""


@contextlib.contextmanager
def explain(path: str, kept: str = "what was there before is unchanged") -> Iterator[None]:
    """Name ``path`` and what was kept in the message of an error of the file system."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_OR_CLOSED:
            raise OSError(error.errno, f"{os.strerror(error.errno)} while writing {path}; {kept}") from error
        raise
