"""Files in the safetensors format: a header in JSON, then numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "?",
}


def read_safetensors(path: str) -> dict[str, np.ndarray]:
    """The arrays in a ``.safetensors`` file by name; bfloat16 widened to float32.

    Raises:
        OSError, ValueError: see :func:`read_with_metadata`.
    """
    return read_with_metadata(path)[0]


def read_with_metadata(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """:func:`read_safetensors`, and the texts that the file holds beside its arrays.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not whole or not of this format: headers that are no JSON,
            names that come twice, tensors that overlap or leave gaps, bytes that
            belong to nothing.
    """
    import safetensors  # here, so that who inserts attention does not load it

    with open(path, "rb") as file:
        content = file.read()
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error).removeprefix("Error while deserializing: ")) from error
    # The package keeps the last of two tensors of one name.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=_unique)
    found = dict(entries)
    arrays = {name: _array(name, found[name]) for name in header if name in found}
    return arrays, dict(header.get("__metadata__") or {})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header has the name {twice!r} twice")
    return dict(pairs)


def _array(name: str, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"{name} is of type {entry['dtype']}; known are {', '.join(_TYPES)}")
    array = np.frombuffer(entry["data"], dtype=_TYPES[entry["dtype"]])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(entry["shape"])


def safetensors_bytes(state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> list[bytes]:
    """Named tensors or arrays as the content of a ``.safetensors`` file, in pieces; bfloat16 is kept.

    ``metadata`` are texts by name, kept in the header.

    Raises:
        ValueError: for a value that is no tensor, or of a type the format does not know.
    """
    names = {np.dtype(code): name for name, code in _TYPES.items() if name != "BF16"}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    chunks, position = [], 0
    for key, value in state.items():
        bfloat16 = isinstance(value, paddle.Tensor) and value.dtype == paddle.bfloat16
        if bfloat16:
            value = value.astype("float32")
        try:
            array = np.ascontiguousarray(np.asarray(value)).reshape(np.shape(value))
        except Exception as error:
            raise ValueError(f"{key} is no tensor but {type(value).__name__}") from error
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in names:
            raise ValueError(f"{key} is of type {array.dtype}; the format knows {', '.join(_TYPES)}")
        content = (array.view("<u4") >> 16).astype("<u2").tobytes() if bfloat16 else array.tobytes()
        header[key] = {
            "dtype": "BF16" if bfloat16 else names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + len(content)],
        }
        chunks.append(content)
        position += len(content)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *chunks]
