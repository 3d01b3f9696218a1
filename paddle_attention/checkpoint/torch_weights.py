"""Load the authors' PyTorch weights.

A layer says in ``TORCH_KEYS`` what its parts are called elsewhere: for each source
(``'authors'``, ``'timm'``) a table from its own names, of sublayers or of parameters, to
theirs; names not in the table are the same. A value may be a pair of the name and
a function of the array. Where the names depend on the layer's options, a method
``torch_keys()`` returns the tables. ``TORCH_COPIES`` names second copies of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..files.safetensors import read_safetensors
from .weights import set_weights, some

_STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}


def load_torch_weights(
    layer_or_model: nn.Layer, source: Mapping[str, Any] | str, dialect: str | None = None
) -> nn.Layer:
    """Load PyTorch weights under the authors' names into a layer or a whole model.

    Linear weights are transposed, fully connected layers become 1x1 convolutions,
    normalisation statistics and packed projections are found under their names, and
    ``num_batches_tracked`` is left out. In a model, everything outside attention layers
    must have the model's own names.

    Args:
        layer_or_model (paddle.nn.Layer): what to load into.
        source (dict or str): names to arrays (NumPy, or anything ``numpy.asarray``
            takes), or a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file. Pickled files
            need PyTorch installed and are read with ``weights_only``.
        dialect (str, optional): whose names, ``'authors'`` or ``'timm'``. Default: those that fit.

    Returns:
        The layer or model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if anything is missing, left over or of another shape. Nothing is changed then.
        ImportError: if reading the file needs a package that is not installed.
    """
    if isinstance(layer_or_model, paddle.DataParallel):
        load_torch_weights(layer_or_model._layers, source, dialect)
        return layer_or_model
    name, arrays = _read(source, layer_or_model)
    known = _dialects(layer_or_model)
    if dialect is not None and dialect not in known:
        raise ValueError(f"dialect must be one of {known}, but got {dialect!r}")
    found = [(*_translate(layer_or_model, arrays, d), d) for d in ([dialect] if dialect else known)]
    state, problems, candidate = min(found, key=lambda item: len(item[1]))  # the first of the best
    if problems:
        whose = "the authors'" if candidate == "authors" else f"{candidate}'s"
        raise ValueError(
            f"{name} does not fit {type(layer_or_model).__name__} by {whose} names: {some(problems, 12)}"
        )
    set_weights(layer_or_model, state, name)
    return layer_or_model


def _tables(layer: nn.Layer) -> dict[str, Any]:
    return layer.torch_keys() if hasattr(layer, "torch_keys") else getattr(layer, "TORCH_KEYS", {})


def _dialects(model: nn.Layer) -> list[str]:
    found = {d for layer in model.sublayers(include_self=True) for d in _tables(layer)}
    return sorted({"authors", *found})


def _theirs(model: nn.Layer, key: str, dialect: str) -> tuple[str, Callable[..., Any] | None, nn.Layer]:
    """``(their name, function or None, the layer that holds it)`` of our ``key``."""
    layer, rest, name, change = model, key.split("."), [], None
    while True:
        tables = _tables(layer)
        table = tables.get(dialect, tables.get("authors", {}))
        length = next((n for n in range(len(rest), 0, -1) if ".".join(rest[:n]) in table), None)
        entry = rest[0] if length is None else table[".".join(rest[:length])]
        if length is None and len(rest) == 1:
            entry = _STATISTICS.get(entry, entry)
        if isinstance(entry, tuple):
            entry, change = entry
        name += [entry] if entry else []
        for part in rest[: length or 1]:
            owner, layer = layer, layer._sub_layers.get(part)
        rest = rest[length or 1 :]
        if not rest:
            return ".".join(name), change, owner
        if layer is None:
            raise ValueError(
                f"{key} is in the state_dict of {type(model).__name__}, but no sublayer holds it"
            )


def _copies(model: nn.Layer, dialect: str) -> Iterator[tuple[str, str]]:
    """``(their prefix of a second copy, their prefix of the first)``."""
    for path, layer in [("", model), *model.named_sublayers()]:
        for copy, first in getattr(layer, "TORCH_COPIES", {}).items():
            prefix = f"{path}." if path else ""
            their = _theirs(model, prefix + first, dialect)[0]
            yield their[: len(their) - len(first)] + copy + ".", their + "."


def _translate(
    model: nn.Layer, arrays: dict[str, np.ndarray], dialect: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state_dict in our names and shapes, and what is wrong with it."""
    state, problems, used = {}, [], set()
    for key, value in model.state_dict().items():
        name, change, owner = _theirs(model, key, dialect)
        if name not in arrays:
            problems.append(f"{name} is missing (for {key})")
            continue
        used.add(name)
        try:
            array = change(arrays[name]) if change else arrays[name]
        except (ValueError, IndexError):
            array = arrays[name]  # of a shape that cannot be changed: reported below
        if isinstance(owner, nn.Linear) and key.endswith("weight"):
            array = array.reshape(_without_last_ones(array.shape, 2)).T
        if _without_last_ones(array.shape) == _without_last_ones(value.shape):
            array = array.reshape(value.shape)
        if list(array.shape) != list(value.shape):
            problems.append(f"{name} is {list(arrays[name].shape)}, not what {key} {list(value.shape)} needs")
        state[key] = np.ascontiguousarray(array)
    left = [k for k in arrays if k not in used and not k.endswith("num_batches_tracked")]
    for copy, first in _copies(model, dialect):
        for key in [k for k in left if k.startswith(copy)]:
            original = arrays.get(first + key[len(copy) :])
            if original is None or not np.array_equal(original, arrays[key]):
                problems.append(
                    f"{key} differs from {first + key[len(copy) :]}, which is shared with it here"
                )
            left.remove(key)
    return state, problems + [f"{k} is left over" for k in left]


def _without_last_ones(shape: Sequence[int], least: int = 0) -> list[int]:
    """``[o, i, 1, 1]`` and ``[o, i]`` hold the same numbers in the same order."""
    shape = list(shape)
    while len(shape) > least and shape[-1] == 1:
        shape.pop()
    return shape


def _read(source: Mapping[str, Any] | str, model: nn.Layer) -> tuple[str, dict[str, np.ndarray]]:
    """The name of the source for messages, and its arrays."""
    name = source if isinstance(source, str) else "the given dict"
    given: Any = _read_file(source) if isinstance(source, str) else source
    if not isinstance(given, dict):
        raise ValueError(f"{name} is not a dict of arrays but {type(given).__name__}")
    for wrapper in ("state_dict", "model"):
        if isinstance(given.get(wrapper), dict):
            given = given[wrapper]
    own = all(k.startswith("module.") for k in model.state_dict())
    if given and not own and all(isinstance(k, str) and k.startswith("module.") for k in given):
        given = {k[len("module.") :]: v for k, v in given.items()}
    arrays = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: the names must be strings, but got {key!r}")
        if hasattr(value, "detach"):  # a tensor
            value = value.detach()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
            value = value.cpu().numpy()
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: {key} is not an array of numbers but {type(value).__name__}")
        arrays[key] = array
    return name, arrays


def _read_file(path: str) -> dict[str, Any]:
    with open(path, "rb"):
        pass  # raises FileNotFoundError, which names it
    if path.endswith(".safetensors"):
        try:
            return read_safetensors(path)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as safetensors ({error})") from error
    if not path.endswith((".pth", ".pt", ".bin", ".tar")):
        raise ValueError(f"{path}: give a .pth, .pt, .bin or .safetensors file")
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs PyTorch (pip install torch), or save it as .safetensors where PyTorch is"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read by torch.load with weights_only: it is not whole, or holds more than tensors"
        ) from error
