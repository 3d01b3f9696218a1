"""Parse the command line, set the threads, run the command."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from ..interrupt import Interrupted
from .streams import lost_lines_are_errors, outlive_readers, steady_streams

if TYPE_CHECKING:
    from ..config.reading import Config

_CONFIG_COMMANDS = {
    "train": "train a network from a YAML",
    "eval": "evaluate a checkpoint",
    "infer": "classify images with a checkpoint",
    "export_model": "export a checkpoint for Paddle Inference and verify the result",
    "predict": "classify images with an exported model",
}


def main(command: str | None = None, arguments: list[str] | None = None) -> int:
    """Run ``command`` (default: the first argument) and return the exit status.

    A mistake of the user's ends in one line on stderr and status 2, a signal in 128 more than its number.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with steady_streams():
        return _run(command, arguments)


def _run(command: str | None, arguments: list[str]) -> int:
    options = _parser(command).parse_args([command, *arguments] if command else arguments)
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
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (whoever read it is gone)
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


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, but got {text!r}")
    return int(text)


def _profiler_options(text: str) -> str:
    if not re.fullmatch(r"[^=;]+=[^=;]*(;[^=;]+=[^=;]*)*", text):
        raise argparse.ArgumentTypeError(f"must be key1=value1;key2=value2, but got {text!r}")
    return text


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=None if command else "python -m paddle_attention",
        description="Attention mechanisms for PaddlePaddle and PaddleClas.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in _CONFIG_COMMANDS.items():
        prog = os.path.basename(sys.argv[0]) if command == name else None
        sub = subparsers.add_parser(name, help=help_text, description=help_text, prog=prog)
        _config_options(sub, training=name == "train")
    sub = subparsers.add_parser("list", help="list the attention mechanisms and networks")
    _convert_options(
        subparsers.add_parser(
            "convert_torch_weights",
            help="turn the authors' PyTorch weights into a .pdparams file",
            description="Turn the authors' PyTorch weights of one layer, or of the network of a YAML, "
            "into a .pdparams file. Everything must fit.",
            prog=os.path.basename(sys.argv[0]) if command == "convert_torch_weights" else None,
        )
    )
    text = "turn a .pdparams file into .safetensors, or back, without running anything in it"
    sub = subparsers.add_parser("convert_weights", help=text, description=text)
    sub.add_argument("source", help=".pdparams or .safetensors, with Paddle's names")
    sub.add_argument("target", help=".safetensors or .pdparams")
    sub = subparsers.add_parser("run", help="run a PaddleClas script with the networks registered")
    sub.add_argument("script", help="such as tools/train.py, in a PaddleClas checkout")
    sub.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    for name, text in (
        ("install", "add the networks to a PaddleClas checkout, so that its own tools know them"),
        ("uninstall", "undo install"),
    ):
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.add_argument("directory", metavar="DIR", help="a PaddleClas checkout")
    text = "write the file of a new mechanism and the file of its tests, in a checkout"
    sub = subparsers.add_parser("new", help=text, description=text)
    sub.add_argument("name", help="such as MyGate")
    sub = subparsers.add_parser("digits", help="write scikit-learn's digits as images and lists")
    sub.add_argument("directory", nargs="?", default="./dataset/digits", metavar="DIR")
    for sub in subparsers.choices.values():
        sub.add_argument(
            "--traceback",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the whole traceback of an error",
        )
    return parser


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=".pth, .pt, .bin or .safetensors")
    parser.add_argument("target", help="the .pdparams file to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--layer", metavar="NAME", help="a layer's name in the registry, or its class")
    what.add_argument("-c", "--config", help="a YAML, for its whole network")
    parser.add_argument("--channels", type=_positive, help="channels of the layer")
    parser.add_argument(
        "-a",
        "--argument",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further argument of the layer; may be repeated",
    )
    parser.add_argument("--dialect", help="'authors' or 'timm' (default: whose names fit)")


def _config_options(parser: argparse.ArgumentParser, training: bool) -> None:
    parser.add_argument("-c", "--config", required=True, help="the YAML")
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY.SUB=VALUE",
        help="change one value of the YAML; may be repeated",
    )
    if training:
        parser.add_argument(
            "--freeze-backbone",
            type=_positive,
            metavar="EPOCHS",
            help="train attention and classifier alone in the first epochs (Global.freeze_backbone_epochs)",
        )
        parser.add_argument(
            "--attention-lr-mult",
            type=float,
            metavar="FACTOR",
            help="the attention's learning rate, as a multiple of the schedule's (Arch.attention_lr_mult)",
        )
        parser.add_argument(
            "-p",
            "--profiler_options",
            metavar="OPTIONS",
            type=_profiler_options,
            help="profile training, as 'key1=value1;key2=value2' (see paddle's profiler)",
        )
    parser.add_argument(
        "--paddleclas",
        default=os.environ.get("PADDLECLAS_HOME") or None,
        metavar="DIR",
        help="use this PaddleClas source tree instead of the embedded engine (default: $PADDLECLAS_HOME)",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        help="CPU threads (default: $OMP_NUM_THREADS, else all cores)",
    )
