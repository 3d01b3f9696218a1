"""Read and write checkpoints, strictly: what does not fit is an error, not a warning."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import paddle
from paddle import Tensor, nn

from .. import files
from ..files.safetensors import read_safetensors, safetensors_bytes
from ..insertion import attention_prefixes, replacing_classes
from ..naming import did_you_mean
from .pickles import UnsafeFileError, load_paddle_file

logger = logging.getLogger("ppcls")


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did.

    Attributes:
        loaded: number of tensors loaded.
        skipped_attention: state_dict keys of attention layers that the file does not have.
        skipped_classifier: keys of the last layer, whose shape in the file is another.
        replaced: keys in the file of convolutions that attention layers have replaced.
    """

    loaded: int
    skipped_attention: tuple = ()
    skipped_classifier: tuple = ()
    replaced: tuple = ()

    def __str__(self) -> str:
        text = f"{self.loaded} tensors loaded"
        if self.skipped_attention:
            text += f", {len(self.skipped_attention)} of the attention layers kept as initialised"
        if self.skipped_classifier:
            text += f", classifier of another size kept as initialised: {', '.join(self.skipped_classifier)}"
        if self.replaced:
            text += f", {len(self.replaced)} in the file of replaced convolutions not used ({some(self.replaced)})"
        return text


def load_weights(
    network: nn.Layer, path: str, skip_attention: bool = False, skip_classifier: bool = False
) -> LoadReport:
    """Load a ``.pdparams`` or ``.safetensors`` file into ``network``; it must fit.

    Nothing in the file is run.

    Args:
        network (paddle.nn.Layer): the network.
        path (str): the file, with or without ``.pdparams``; or a ``.safetensors`` file.
        skip_attention (bool): accept a file without the inserted attention
            layers, such as a backbone's; they stay as they are. What it holds of
            convolutions that attention layers have replaced is left aside.
        skip_classifier (bool): accept another shape of the network's last layer;
            it stays as it is.

    Returns:
        :class:`LoadReport`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a state_dict, or a tensor is missing, of
            another shape, or unknown to the network. The network is then unchanged.
    """
    return set_weights(network, read_state_dict(path), path, skip_attention, skip_classifier)


def load_checkpoint(network: nn.Layer, path: str, **options: bool) -> LoadReport:
    """:func:`load_weights`, after a look at the checksum where there is one."""
    prefix = path.removesuffix(".pdparams")
    if not path.endswith(".safetensors"):
        known = files.verify(prefix, [".pdparams"]) is not None
        if not known and files.has_manifest(prefix):
            logger.warning(
                f"{prefix} is not what its manifest describes: another program has written it since"
            )
    return load_weights(network, path, **options)


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The dict of tensors in ``path`` (``.pdparams`` is added if it is missing)."""
    if not path.endswith((".pdparams", ".pdema", ".safetensors")):
        path += ".pdparams"
    state = read_file(path)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} is not a state_dict but {type(state).__name__}")
    return state


def read_file(path: str) -> dict[str, Tensor] | list[dict[str, Tensor]]:
    """What is in a file of ``paddle.save`` or a ``.safetensors`` file, with errors that name it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not whole, or holds more than tensors and plain containers.
    """
    if not os.path.isfile(path):
        directory, name = os.path.split(path)
        near = did_you_mean(name, os.listdir(directory or ".")) if os.path.isdir(directory or ".") else ""
        raise FileNotFoundError(f"there is no file {path!r}{near}")
    if path.endswith(".safetensors"):
        try:
            return {key: paddle.to_tensor(array) for key, array in read_safetensors(path).items()}
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as safetensors ({error})") from error
    try:
        return load_paddle_file(path)
    except UnsafeFileError as error:
        raise ValueError(
            f"{path} is refused: {error}, and a file of weights holds only tensors and plain containers"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a Paddle file ({error}); is it whole?") from error


def set_weights(
    network: nn.Layer,
    state: dict[str, Any],
    source: str,
    skip_attention: bool = False,
    skip_classifier: bool = False,
) -> LoadReport:
    """Like :func:`load_weights`, for a dict; ``source`` names it in messages."""
    own = network.state_dict(use_hook=False)  # O2 shows float32 copies
    for key, value in state.items():
        if not isinstance(key, str) or not hasattr(value, "shape"):
            raise ValueError(f"{source} is not a state_dict: its entry {key!r} is no tensor")
    last_layer = _last_layer(own)
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    mismatched = [k for k in own if k in state and list(own[k].shape) != list(state[k].shape)]
    replacing = _replacing(network) if skip_attention else ()
    prefixes = attention_prefixes(network) if skip_attention else ()
    attention = [k for k in missing if k.startswith(prefixes)]
    replaced = [k for k in unexpected if k.startswith(replacing)] if replacing else []
    unexpected = [k for k in unexpected if k not in replaced]
    classifier = [k for k in mismatched if skip_classifier and k.rpartition(".")[0] == last_layer]
    problems = []
    if own and not any(k in own for k in state):
        near = did_you_mean(next(iter(state), ""), own)
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: none of its {len(state)} tensors "
            f"({some(list(state))}) is one of the network's ({some(list(own))}){near}"
        )
    if missing := [k for k in missing if k not in attention]:
        problems.append(f"{len(missing)} missing ({some(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} unknown to the network ({some(unexpected)})")
    if mismatched := [k for k in mismatched if k not in classifier]:
        shapes = [f"{k} {list(state[k].shape)} in the file, {list(own[k].shape)} here" for k in mismatched]
        problems.append(f"{len(mismatched)} of another shape ({some(shapes)})")
    if problems:
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: of {len(own)} tensors "
            f"{'; '.join(problems)}. Use the weights of this very network"
        )
    fitting = {k: _as_dtype(state[k], own[k].dtype) for k in own if k in state and k not in classifier}
    network.set_state_dict(fitting)
    return LoadReport(len(fitting), tuple(attention), tuple(classifier), tuple(replaced))


def own_parts(network: nn.Layer) -> tuple[str, ...]:
    """Prefixes of the state_dict keys of all that is not the backbone: attention and the last layer."""
    return (*attention_prefixes(network), f"{_last_layer(network.state_dict())}.")


def _last_layer(state: dict[str, Any]) -> str:
    """Name of the layer that has the last keys: the classifier, if the network has one."""
    return next(reversed(state), "").rpartition(".")[0]


def _replacing(network: nn.Layer) -> tuple[str, ...]:
    """Prefixes of the keys of layers that have replaced a convolution."""
    classes = replacing_classes()
    return tuple(f"{name}." for name, layer in network.named_sublayers() if isinstance(layer, classes))


def _as_dtype(value: Tensor | np.ndarray, dtype: Any) -> Tensor:
    """Half-precision checkpoints load into float32 networks, and the reverse."""
    return paddle.to_tensor(value).astype(dtype)


def some(items: Sequence[Any], limit: int = 3) -> str:
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def save_weights(state: Mapping[str, Any], path: str) -> None:
    """Write a state_dict as ``.pdparams`` or ``.safetensors``, by the ending, in one step.

    Raises:
        ValueError: for another ending.
    """
    if path.endswith(".safetensors"):
        pieces = safetensors_bytes(state)
        files.write_atomically(path, lambda file: file.writelines(pieces))
    elif path.endswith(".pdparams"):
        save_file(state, path)
    else:
        raise ValueError(f"{path}: the name must end in .pdparams or .safetensors")


def save_file(value: Any, path: str) -> None:
    """``paddle.save`` that replaces ``path`` in one step: it is never half written."""

    def write(file: BinaryIO) -> None:
        # paddle.save opens by name; it is the same file, which nobody else can write meanwhile.
        paddle.save(value, file.name)

    files.write_atomically(path, write)


def save_set(
    prefix: str,
    values: dict[str, Any],
    facts: dict[str, Any] | None = None,
    kept: str = "what was there before is unchanged",
) -> None:
    """``paddle.save`` of files that belong together; all become ``prefix`` in one instant.

    Args:
        prefix (str): their path without ending.
        values (dict): ending, such as ``'.pdparams'``, to what is in the file.
        facts (dict, optional): what the manifest says besides.
        kept (str): for the message of an error: what is there if this fails.

    Raises:
        OSError: naming the file; the old files are then unchanged, and nothing is left behind.
    """
    os.makedirs(os.path.dirname(prefix) or ".", exist_ok=True)
    files.recover(prefix, owner=True)
    staged = [prefix + ending + files.STAGED for ending in values]
    with files.clean_up(staged):
        for path, value in zip(staged, values.values(), strict=True):
            with files.explain(path.removesuffix(files.STAGED), kept):
                paddle.save(value, path)
    files.commit(prefix, list(values), facts, kept)
