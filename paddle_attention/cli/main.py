"""Parse the command line, set the threads, run the command."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from ..interrupt import Interrupted
from .parser import build_parser
from .streams import flush_or_drop, lost_lines_are_errors, outlive_readers, steady_streams

if TYPE_CHECKING:
    from ..config.reading import Config


def main(command: str | None = None, arguments: list[str] | None = None) -> int:
    """Run ``command`` (default: the first argument) and return the exit status.

    A mistake of the user's ends in one line on stderr and status 2, a signal in 128 more than its number.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with steady_streams():
        status = _run(command, arguments)
    lost = flush_or_drop()
    if lost is None or status or (command or arguments[0]) == "train":  # its log is a file as well
        return status
    return 128 + 13 if isinstance(lost, BrokenPipeError) else _say(f"error: {lost}", 2)


def run_tool(run: Callable[[], object]) -> int:
    """Run a tool's main function and return the exit status, as :func:`main` does."""
    try:
        run()
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except (ValueError, OSError, ImportError) as error:
        return _say(f"error: {_one_line(error, None)}", 2)
    return 0


def _run(command: str | None, arguments: list[str]) -> int:
    options = build_parser(command).parse_args([command, *arguments] if command else arguments)
    set_threads(getattr(options, "threads", None))
    warnings.filterwarnings("ignore", message="No ccache found")
    if options.command == "train":
        outlive_readers()  # its log is a file as well
    else:
        lost_lines_are_errors()
    try:
        with _interrupt_as_such():
            from . import commands  # imports Paddle

        getattr(commands, f"do_{options.command}")(options)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except Interrupted as stop:
        return _say(str(stop), 128 + stop.signal)
    except BrokenPipeError as error:
        if error.filename is not None:
            raise
        return 128 + 13  # as programs that SIGPIPE ends
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if options.traceback:
            raise
        return _say(f"error: {_one_line(error, getattr(options, 'read', None))}", 2)
    return 0


def _say(line: str, status: int) -> int:
    for handler in logging.getLogger("ppcls").handlers:
        if isinstance(handler, logging.FileHandler):  # the file of a run has its last line, too
            with contextlib.suppress(OSError):
                handler.emit(logging.makeLogRecord({"name": "ppcls", "levelname": "INFO", "msg": line}))
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # so that it is the last line, also of a redirected output
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status


@contextlib.contextmanager
def _interrupt_as_such() -> Iterator[None]:
    """Ctrl-C while Paddle is imported, which makes an ImportError of it."""
    came = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _one_line(error: Exception, source: Config | None) -> str:
    """The message, and where in the YAML the key stands with which it begins."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.strerror}: {error.filename}"
    place = source.locate(text) if source is not None else ""
    return f"{text} ({place})" if place else text


def set_threads(threads: int | None = None) -> None:
    """Choose the number of CPU threads; only works before Paddle is imported.

    Paddle takes ``OMP_NUM_THREADS`` and sets it to 1 itself if it is not set.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Under a launcher several processes share the machine.
        processes = int(os.environ.get("PADDLE_TRAINERS_NUM", 1))
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        os.environ["OMP_NUM_THREADS"] = str(max(1, (available or 1) // processes))
