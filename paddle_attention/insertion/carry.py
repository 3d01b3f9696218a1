"""Inserted attention in a file of its own: what was inserted where, and its weights, without the backbone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import paddle
from paddle import nn

from ..files import write_atomically
from ..files.safetensors import read_with_metadata, safetensors_bytes
from .records import Record, records
from .trace import check_input_shape

_METADATA, _VERSION = "paddle_attention", 1
_ENDING = ".safetensors"


@dataclass(frozen=True)
class AttentionFile:
    """What :func:`save_attention` has written.

    Attributes:
        path: of the file.
        calls: ``(items, input_shape)`` of each call of ``insert_attention`` to be repeated.
        state: keys in the network to arrays.
    """

    path: str
    calls: list[tuple[list[dict[str, Any]], list[int] | None]]
    state: dict[str, np.ndarray]


def save_attention(model: nn.Layer, path: str | os.PathLike[str]) -> list[str]:
    """Write what was inserted into ``model``, with its weights, to one small file, without the backbone.

    ``insert_attention(model, path)`` puts it into another network of the same kind.

    Args:
        model (paddle.nn.Layer): the network that was given to :func:`insert_attention`.
        path: of the file to be written, ending in ``.safetensors``. It is written in one step.

    Returns:
        list of str: the keys of the weights that were saved.

    Raises:
        ValueError: for another ending, if nothing was inserted, or if it was inserted with an
            argument that cannot be written.
        OSError: if the file cannot be written.
    """
    path = os.fspath(path)
    if not path.endswith(_ENDING):
        raise ValueError(f"{path}: the name must end in {_ENDING}")
    calls = [_described(call) for call in records(model)]
    if not calls:
        raise ValueError(
            f"nothing was inserted into {type(model).__name__} itself; give the network that was given to "
            "insert_attention"
        )
    inside = tuple(f"{insertion.key}." for call in records(model) for insertion in call.insertions)
    state = {key: value for key, value in model.state_dict().items() if key.startswith(inside)}
    for prefix in inside:
        if not any(key.startswith(prefix) for key in state) and _is_gone(model, prefix[:-1]):
            raise ValueError(
                f"{path}: attention {prefix[:-1]!r} is no longer in {type(model).__name__}; take out the rest with "
                "remove_attention and insert anew what is to be saved"
            )
    try:
        text = json.dumps({"version": _VERSION, "calls": calls}, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"{path}: the attention has an argument that cannot be written: {error}") from error
    pieces = safetensors_bytes(state, {_METADATA: text})
    write_atomically(path, lambda file: file.writelines(pieces))
    return list(state)


def _is_gone(model: nn.Layer, key: str) -> bool:
    return key not in dict(model.named_sublayers())


def _described(call: Record) -> dict[str, Any]:
    return {"attention": [dict(item) for item in call.specification], "input_shape": call.input_shape}


def names_a_file(attention: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether what was given as ``attention`` is the path of a file."""
    return isinstance(attention, os.PathLike) or (isinstance(attention, str) and attention.endswith(_ENDING))


def read_attention(path: str | os.PathLike[str]) -> AttentionFile:
    """Read what :func:`save_attention` has written; nothing in it is run.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not one of these.
    """
    path = os.fspath(path)
    try:
        state, texts = read_with_metadata(path)
        found = json.loads(texts[_METADATA])
        if found["version"] != _VERSION:
            raise ValueError(
                f"is of version {found['version']!r}, and this library reads {_VERSION}; take a newer one"
            )
        calls = [(list(call["attention"]), call["input_shape"]) for call in found["calls"]]
        for _, shape in calls:
            if shape is not None:
                check_input_shape(shape)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: holds no attention; it must be a file that save_attention wrote"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return AttentionFile(path, calls, state)


def check_state(model: nn.Layer, file: AttentionFile, inserted: Sequence[str]) -> None:
    """Raise ValueError unless the weights of a file are those of the attention that was just inserted.

    Args:
        model (paddle.nn.Layer): the network, with the attention.
        file (AttentionFile): where the weights are from.
        inserted (list of str): keys of the attention layers.
    """
    inside = tuple(f"{key}." for key in inserted)
    own = {k: v for k, v in model.state_dict().items() if k.startswith(inside)}
    problems = _differences(own, file.state)
    if problems:
        raise ValueError(f"{file.path}: does not fit {type(model).__name__}: {problems[0]}")


def _differences(own: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> list[str]:
    problems = [f"it has no weights for {key}" for key in own if key not in state]
    problems += [f"the network has no attention {key}" for key in state if key not in own]
    for key in own.keys() & state.keys():
        if list(own[key].shape) != list(state[key].shape):
            problems.append(f"{key} is {list(state[key].shape)} in the file and {list(own[key].shape)} here")
    return problems


def set_state(model: nn.Layer, file: AttentionFile) -> None:
    """Give the attention of ``model`` the weights of a file."""
    own = model.state_dict()
    for key, value in file.state.items():
        own[key].set_value(paddle.to_tensor(value).astype(own[key].dtype))
