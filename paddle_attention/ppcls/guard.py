"""PaddleClas without the two doors through which a file or a YAML could run code.

PaddleClas loads weights by ``paddle.load``, which runs what a pickle says, and finds
names written in a YAML by ``eval``. Inside of :func:`guarded` its modules evaluate
names and literals alone, and ``paddle.load`` and ``pickle`` build arrays and plain
containers alone.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import importlib.abc
import importlib.machinery
import inspect
import operator
import os
import pickle
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import paddle
from paddle import nn

from ..checkpoint import PlainPickle, UnsafeFileError, plain_pickles, read_file
from ..config import ConfigError, DataError, parse_value

_NAME = re.compile(r"[A-Za-z]\w*|_[A-Za-z]\w*")
_TRUSTED = ("ppcls", "paddle", "paddle_attention")
_FACTORIES = ("ppcls.arch", "paddle_attention")
_CONSTANTS = (dict, list, tuple, str, int, float, bool, type(None))
_ARITHMETIC: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class _Evaluate:
    """Stands for ``eval`` in PaddleClas' modules. Not a function: PaddleClas exports all functions it sees."""

    def __call__(
        self, source: str, names: dict[str, Any] | None = None, local_names: dict[str, Any] | None = None
    ) -> Any:
        """The literal, quotient or network part that ``source`` names where this is called.

        Raises:
            ConfigError: for anything else.
        """
        frame = sys._getframe(1)
        if frame.f_code.co_name == "str2num":  # the value of an override
            return parse_value(source, "the override")
        if not isinstance(source, str):
            raise ConfigError(f"{source!r} is no name of a layer or operator")
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ast.literal_eval(source.strip())
        with contextlib.suppress(
            ValueError, SyntaxError, TypeError, MemoryError, RecursionError, ArithmeticError
        ):
            return _calculate(ast.parse(source.strip(), mode="eval").body)
        scope = {**frame.f_globals, **frame.f_locals, **(names or {}), **(local_names or {})}
        return _resolve(source, scope)


evaluate = _Evaluate()


def _calculate(node: ast.AST) -> Any:
    """A number from numbers, such as ``1.0/255.0``; no powers, which can be huge."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_calculate(node.left), _calculate(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_calculate(node.operand))
    raise ValueError("no calculation")


def _resolve(source: str, scope: dict[str, Any]) -> Any:
    first, *rest = source.split(".")
    if not all(map(_NAME.fullmatch, [first, *rest])) or first not in scope:
        raise ConfigError(f"{source!r} is no name that PaddleClas knows here; it is not evaluated")
    value = scope[first]
    for name in rest:
        value = getattr(value, name, None) if not name.startswith("_") else None
    if not (_is_layer(value) if rest else is_trusted(value)):
        raise ConfigError(f"{source!r} names no layer, operator or network of PaddleClas; it is not used")
    return value


def _is_layer(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Layer)


def is_trusted(value: Any) -> bool:
    """Whether a YAML may name ``value``: a class of PaddleClas or Paddle, a factory of networks, a constant."""
    if isinstance(value, functools.partial):
        value = value.func
    module = (getattr(value, "__module__", None) or "").split(".")
    if inspect.isclass(value):
        return _is_layer(value) or module[0] in _TRUSTED
    if inspect.isroutine(value):
        return ".".join(module).startswith(_FACTORIES)
    return isinstance(value, _CONSTANTS)


# --- modules ------------------------------------------------------------------------------


def _import(name: str, *arguments: Any, **options: Any) -> Any:
    return PlainPickle if name == "pickle" else builtins.__import__(name, *arguments, **options)


BUILTINS = {**vars(builtins), "eval": evaluate, "__import__": _import}
"""The built-in names of guarded modules."""


def _guard_imported(module: ModuleType) -> None:
    """A module that was imported before it could be guarded finds its global names first."""
    vars(module).setdefault("eval", evaluate)
    if vars(module).get("pickle") is pickle:
        vars(module)["pickle"] = PlainPickle


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = BUILTINS
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Imports the modules of the guarded folders with ``eval`` and ``pickle`` replaced."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        if not spec.origin or not os.path.realpath(spec.origin).startswith(tuple(self.folders)):
            return None
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


_finder = _Finder()


def guard_folder(folder: str) -> None:
    """From now on, modules imported from below ``folder`` are guarded; those imported already, too."""
    folder = os.path.join(os.path.realpath(folder), "")
    if folder not in _finder.folders:
        _finder.folders.append(folder)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and os.path.realpath(path).startswith(folder):
            _guard_imported(module)


# --- weights ------------------------------------------------------------------------------


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Paddle reads arrays and plain containers alone, and archives are unpacked below their folder, inside."""
    original, filtered = paddle.load, tarfile.TarFile.__dict__.get("extraction_filter")
    paddle.load = _load
    if hasattr(tarfile, "data_filter"):  # Python 3.10.12 and 3.11.4
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        with plain_pickles():
            yield
    finally:
        paddle.load = original
        if hasattr(tarfile, "data_filter"):
            tarfile.TarFile.extraction_filter = filtered


def _load(path: str, return_numpy: bool = False, **_: Any) -> Any:
    """Stands for ``paddle.load``."""
    if not isinstance(path, (str, os.PathLike)):
        raise DataError(f"paddle.load of {type(path).__name__}: only files are read here")
    path = os.fspath(path)
    if not os.path.isfile(path) and os.path.isfile(path + ".pdparams"):
        path += ".pdparams"
    try:
        value = read_file(path)
    except (UnsafeFileError, ValueError) as error:
        raise DataError(str(error)) from error
    if return_numpy and isinstance(value, dict):
        return {k: v.numpy() if isinstance(v, paddle.Tensor) else v for k, v in value.items()}
    return value
