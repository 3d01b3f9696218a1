"""Standard output and error that may be closed, full, or read by nobody any more."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _Lossy(io.TextIOBase):
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # the latter: it is closed
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self.stream.isatty()
        return False

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def steady_streams() -> Iterator[None]:
    """Streams that were closed before the start (``2>&-``) are ``os.devnull``; the given ones come back at the end."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as closing:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, closing.enter_context(open(os.devnull, "w", encoding="utf-8")))
        handle = logging.Handler.handleError
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            logging.Handler.handleError = handle  # type: ignore[method-assign]


def flush_or_drop() -> OSError | ValueError | None:
    """Write what is buffered. What cannot be written is dropped, or the interpreter would fail on it at its end.

    Returns:
        the error, if something was dropped.
    """
    lost: OSError | ValueError | None = None
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            lost = lost or error
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
                stream.flush()
    return lost


def outlive_readers() -> None:
    """From here to the end of :func:`steady_streams`, output that nobody takes is dropped, and never an error."""
    sys.stdout, sys.stderr = _Lossy(sys.stdout), _Lossy(sys.stderr)


def lost_lines_are_errors() -> None:
    """Until the end of :func:`steady_streams` a log line that cannot be written raises, as ``print`` does."""

    def raise_again(handler: logging.Handler, record: logging.LogRecord) -> None:
        if isinstance(error := sys.exc_info()[1], OSError):
            raise error
        usual(handler, record)

    usual = logging.Handler.handleError
    logging.Handler.handleError = raise_again  # type: ignore[method-assign,assignment]
