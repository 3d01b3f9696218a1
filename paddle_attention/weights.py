"""Read and write checkpoints, strictly: what does not fit is an error, not a warning."""

import os
import re
import tempfile
from dataclasses import dataclass

import paddle

_ATTENTION_KEY = re.compile(r"(^|\.)attention\d*\.")


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did; the last two are lists of state_dict keys."""

    loaded: int
    skipped_attention: tuple
    skipped_classifier: tuple

    def __str__(self):
        text = f"{self.loaded} tensors loaded"
        if self.skipped_attention:
            text += f", {len(self.skipped_attention)} of the attention layers kept as initialised"
        if self.skipped_classifier:
            text += f", classifier of another size kept as initialised: {', '.join(self.skipped_classifier)}"
        return text


def load_weights(network, path, skip_attention=False, skip_classifier=False):
    """Load a ``.pdparams`` file into ``network``; it must fit.

    Args:
        network (paddle.nn.Layer): the network.
        path (str): the file, with or without ``.pdparams``.
        skip_attention (bool): accept a file without the inserted attention
            layers, such as a backbone's; they stay as they are.
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


def read_state_dict(path):
    """The dict of tensors in ``path`` (``.pdparams`` is added if it is missing)."""
    if not path.endswith((".pdparams", ".pdema")):
        path += ".pdparams"
    state = read_file(path)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} is not a state_dict but {type(state).__name__}")
    state.pop("StructuredToParameterName@@", None)
    return state


def read_file(path):
    """``paddle.load`` with errors that name the file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path!r}")
    try:
        return paddle.load(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a Paddle file ({error}); is it whole?") from error


def set_weights(network, state, source, skip_attention=False, skip_classifier=False):
    """Like :func:`load_weights`, for a dict; ``source`` names it in messages."""
    own = network.state_dict()
    last_layer = list(own)[-1].rpartition(".")[0] if own else ""
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    mismatched = [k for k in own if k in state and list(own[k].shape) != list(state[k].shape)]
    attention = [k for k in missing if skip_attention and _ATTENTION_KEY.search(k)]
    classifier = [k for k in mismatched if skip_classifier and k.rpartition(".")[0] == last_layer]
    problems = []
    if missing := [k for k in missing if k not in attention]:
        problems.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} unknown to the network ({_some(unexpected)})")
    if mismatched := [k for k in mismatched if k not in classifier]:
        shapes = [f"{k} {list(state[k].shape)} in the file, {list(own[k].shape)} here" for k in mismatched]
        problems.append(f"{len(mismatched)} of another shape ({_some(shapes)})")
    if problems:
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: of {len(own)} tensors "
            f"{'; '.join(problems)}. Use the weights of this very network"
        )
    fitting = {k: _as_dtype(state[k], own[k].dtype) for k in own if k in state and k not in classifier}
    network.set_state_dict(fitting)
    return LoadReport(len(fitting), tuple(attention), tuple(classifier))


def _as_dtype(value, dtype):
    """Half-precision checkpoints load into float32 networks, and the reverse."""
    return paddle.to_tensor(value).astype(dtype)


def _some(items, limit=3):
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def save_file(value, path):
    """``paddle.save`` that replaces ``path`` in one step: it is never half written."""
    save_files({path: value})


def save_files(values):
    """``paddle.save`` of several files that belong together, ``{path: value}``.

    All are written under temporary names first, so a full disk changes nothing.
    Then the last old file is removed, and the new ones get their names in order:
    wherever the last one is, the others are of the same state.
    """
    paths, temporary = list(values), {}
    try:
        for path, value in values.items():
            directory = os.path.dirname(path) or "."
            os.makedirs(directory, exist_ok=True)
            handle, temporary[path] = tempfile.mkstemp(dir=directory, suffix=".tmp")
            os.close(handle)
            paddle.save(value, temporary[path])
            with open(temporary[path], "rb") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary[path], 0o666 & ~umask)
        if len(paths) > 1 and os.path.exists(paths[-1]):
            os.unlink(paths[-1])
        for path in paths:
            os.replace(temporary[path], path)
            del temporary[path]
    finally:
        for left in temporary.values():
            os.unlink(left)
