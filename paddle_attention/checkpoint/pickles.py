"""Read files of weights without running what is in them, and write safetensors.

``paddle.load`` unpickles, and a pickle can run any code. Here the unpickler builds
arrays and plain containers and refuses everything else.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle


class UnsafeFileError(ValueError):
    """A file that wants to build something other than arrays and plain containers."""


class _Placeholder:
    """Stands for something that a pickle names; a pickle cannot change it."""

    __slots__ = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        raise UnsafeFileError("it wants to change what reads it")


class _Function(_Placeholder):
    """A function that a pickle may call."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any] | type) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _DType:
    """``numpy.dtype`` of plain numbers: what the pickle says of it, as text."""

    def __init__(self, code: str, *_: Any) -> None:
        found = re.fullmatch(r"[<>|=]?([fiubc](?:1|2|4|8|16))", code) if isinstance(code, str) else None
        if not found:
            raise UnsafeFileError(f"it holds an array of {code!r}")
        self.code, self.order = found[1], "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, subarray, names, fields, ...)
        if not isinstance(state, tuple) or state[1] not in "<>|=" or any(x is not None for x in state[2:5]):
            raise UnsafeFileError("it holds an array of structures")
        self.order = state[1]

    def read(self, data: bytes | str, shape: tuple[int, ...] = (), order: str = "C") -> np.ndarray:
        """The numbers in ``data``, exactly as many as ``shape`` says."""
        data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
        dtype = np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not isinstance(data, bytes) or not sizes or math.prod(shape) * dtype.itemsize != len(data):
            raise UnsafeFileError(f"it holds an array of shape {shape} that its bytes do not fill")
        return np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


class _Array:
    """``numpy.ndarray``: its state is checked before any array is made."""

    values = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5) or not isinstance(state[-3], _DType):
            raise UnsafeFileError("it holds an array of another form")
        shape, dtype, fortran, data = state[-4:]
        if isinstance(data, list):
            raise UnsafeFileError("it holds an array of objects")
        self.values = dtype.read(data, shape, "F" if fortran else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _DType):
        raise UnsafeFileError("it holds a number of another form")
    return dtype.read(data).item()


def _value_of_data(source: str, variables: dict[str, Any]) -> Any:
    """Stands for ``eval('data', {'data': array})``, which is how Paddle pickles a C++ tensor."""
    if source != "data" or not isinstance(variables, dict) or set(variables) != {"data"}:
        raise UnsafeFileError(f"it wants to evaluate {source!r}")
    return variables["data"]


def _latin1(text: str, encoding: str = "latin1", errors: str = "strict") -> bytes:
    """Stands for ``_codecs.encode``, by which Python 2 bytes are pickled; ``latin1`` only."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafeFileError(f"it wants to encode in {encoding!r}")
    return text.encode("latin1", errors)


# Nothing of NumPy's own: its objects take any state that a pickle gives them, pointers included.
_ALLOWED = {
    ("numpy", "ndarray"): _Placeholder(),
    ("numpy", "dtype"): _Function(_DType),
    ("collections", "OrderedDict"): _Function(lambda items=(): dict(items)),
    ("_codecs", "encode"): _Function(_latin1),
}


for _module in ("builtins", "__builtin__"):
    _ALLOWED[_module, "tuple"] = _Function(lambda items=(): tuple(items))
    _ALLOWED[_module, "eval"] = _Function(_value_of_data)


for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = _Function(_Array)
    _ALLOWED[_module, "scalar"] = _Function(_scalar)


class _Unpickler(pickle.Unpickler):
    """Builds only what is in the table above."""

    def find_class(self, module: str, name: str) -> _Function | _Placeholder:
        if (module, name) not in _ALLOWED:
            raise UnsafeFileError(f"it wants to call {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> None:
        raise UnsafeFileError("it refers to objects outside the file")


def _check_memo(content: bytes) -> None:
    """Refuse numbers of remembered objects beyond the file's size: unpickling makes a table that long."""
    for opcode, number, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(number or 0) > len(content):
            raise ValueError(f"it numbers an object {number}, more than it can have")


def load_paddle_file(path: str) -> Any:
    """What ``paddle.save`` wrote to ``path``: tensors in plain containers.

    Reads pickles of all Paddle versions, also those of Python 2. Nothing in the file is run.

    Raises:
        OSError: if the file cannot be opened.
        UnsafeFileError: if it holds anything but arrays and plain containers.
        ValueError: if it is not a whole pickle.
    """
    with open(path, "rb") as file:
        content = file.read()
    return _unpickle(content, paddle.to_tensor)


def unpickle_arrays(content: bytes) -> Any:
    """The plain containers and NumPy arrays in the pickle ``content``; nothing in it is run.

    Strings of Python 2 are read as Latin-1.

    Raises:
        UnsafeFileError: if it holds anything else.
        ValueError: if it is not a whole pickle.
    """
    return _unpickle(content, lambda array: array)


def _unpickle(content: bytes, convert: Callable[..., Any]) -> Any:
    try:
        _check_memo(content)
        value = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        value = _join_parts(value)
        if isinstance(value, dict):  # Paddle's table of its own names; paddle.load leaves it out, too
            value.pop("StructuredToParameterName@@", None)
        return _convert(value, {}, convert)
    except UnsafeFileError:
        raise
    except RecursionError:
        raise ValueError("its containers are nested too deeply") from None
    except MemoryError:
        raise ValueError("it asks for more memory than there is") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise ValueError(
            f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        ) from error


def _join_parts(value: Any) -> Any:
    """Put together the arrays that Paddle cut into parts of 1 GB under pickle protocol 2 and 3."""
    if not isinstance(value, dict) or "UnpackBigParamInfor@@" not in value:
        return value
    for name, info in value.pop("UnpackBigParamInfor@@").items():
        parts = [value.pop(part) for part in info["slices"]]
        value[name] = _Array()
        value[name].values = np.concatenate([p.values for p in parts]).reshape(info["OriginShape"])
    return value


def _convert(value: Any, done: dict[Any, Any], convert: Callable[..., Any]) -> Any:
    """Arrays by ``convert``, through all containers; shared ones once."""
    if id(value) in done:
        return done[id(value)][1]
    result = value
    if isinstance(value, _Array):
        if value.values is None:
            raise UnsafeFileError("it holds an array without numbers")
        result = convert(value.values)
    elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], _Array):
        result = _convert(value[1], done, convert)  # (name, data): a tensor on its own
    elif isinstance(value, dict):
        result = {}
        done[id(value)] = (value, result)
        for key, item in value.items():
            result[key] = _convert(item, done, convert)
    elif isinstance(value, (list, tuple)):
        result = type(value)(_convert(item, done, convert) for item in value)
    elif not (value is None or isinstance(value, (str, bytes, int, float, bool, complex, set))):
        raise UnsafeFileError(f"it holds a {type(value).__name__}")
    done[id(value)] = (value, result)
    return result
