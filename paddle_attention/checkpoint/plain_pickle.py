"""A stand-in for the module ``pickle`` that reads plain containers and arrays alone."""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import types
from collections.abc import Iterator
from typing import Any, BinaryIO

from .pickles import UnsafeFileError, unpickle_arrays


def _plain_loads(content: bytes, encoding: str = "ASCII", **_: Any) -> Any:
    """Stands for ``pickle.loads``; raises :class:`UnsafeFileError` for more than plain containers and arrays."""
    try:
        value = unpickle_arrays(bytes(content))
    except ValueError as error:
        raise UnsafeFileError(f"a pickled file is refused: {error}") from error
    if encoding == "bytes" and isinstance(value, dict):
        return {k.encode("latin1") if isinstance(k, str) else k: v for k, v in value.items()}
    return value


def _plain_load(file: BinaryIO, **options: Any) -> Any:
    """Stands for ``pickle.load``."""
    return _plain_loads(file.read(), **options)


class _PlainUnpickler:
    """Stands for ``pickle.Unpickler``."""

    def __init__(self, file: Any, **options: Any) -> None:
        self.file, self.options = file, options

    def load(self) -> Any:
        return _plain_load(self.file, **self.options)


_READING = {"load": _plain_load, "loads": _plain_loads, "Unpickler": _PlainUnpickler}


# Stands for the module ``pickle``: reads plain containers and arrays alone; all else is Python's own.
PlainPickle = types.SimpleNamespace(
    **{
        **{name: value for name, value in vars(pickle).items() if not name.startswith("__")},
        **_READING,
        **{f"_{name}": value for name, value in _READING.items()},
    }
)


# What of Paddle reads files by pickle; other modules pickle what they send to each other.
_READERS = (
    "vision.datasets.cifar",
    "static.io",
    "static.io_utils",
    "static.pir_io",
    "framework.io",
    "framework.io_utils",
    "jit.translated_layer",
    "hapi.model",
    "distributed.auto_parallel.static.dist_saver",
)


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def plain_pickles() -> Iterator[None]:
    """Paddle's readers of files read plain containers and arrays alone, inside."""
    names = [f"paddle.{name}" for name in _READERS]
    modules = [importlib.import_module(name) for name in names if _exists(name)]
    originals = [(m, m.pickle) for m in modules if getattr(m, "pickle", None) is pickle]
    for module, _ in originals:
        vars(module)["pickle"] = PlainPickle
    try:
        yield
    finally:
        for module, original in originals:
            vars(module)["pickle"] = original
