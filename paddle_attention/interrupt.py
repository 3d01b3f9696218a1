"""SIGTERM and Ctrl-C end a training after its step, with a checkpoint; child processes end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import Any

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl
_LIBRARY = ctypes.CDLL(None) if os.name == "posix" else None


def end_with_parent() -> None:
    """In a child process on Linux: be killed when the parent dies, also by kill -9. Elsewhere it does nothing."""
    if hasattr(_LIBRARY, "prctl"):
        _LIBRARY.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)  # type: ignore[union-attr]


class Interrupted(Exception):
    """A training that a signal has ended in good order.

    Attributes:
        signal (int): its number; the exit status is 128 more.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopRequest:
    """Inside of it the first SIGTERM or SIGINT is only noted; a second SIGINT interrupts at once.

    Attributes:
        signal (int): the number of the signal that came, or 0.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        # Not by a logger, whose output this may have interrupted.
        with contextlib.suppress(OSError):  # its reader may be gone, by the same Ctrl-C
            os.write(2, f"\n{signal.Signals(number).name}: finishing the step, then saving\n".encode())
