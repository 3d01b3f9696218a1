"""Files of weights: read without running anything in them, written in one step."""

from ..files.safetensors import read_safetensors, safetensors_bytes
from .pickles import UnsafeFileError, load_paddle_file, unpickle_arrays
from .plain_pickle import PlainPickle, plain_pickles
from .torch_weights import load_torch_weights
from .weights import (
    LoadReport,
    load_checkpoint,
    load_weights,
    own_parts,
    read_file,
    read_state_dict,
    save_file,
    save_set,
    save_weights,
    set_weights,
)

__all__ = [
    "LoadReport",
    "PlainPickle",
    "UnsafeFileError",
    "load_checkpoint",
    "load_paddle_file",
    "load_torch_weights",
    "load_weights",
    "own_parts",
    "plain_pickles",
    "read_file",
    "read_safetensors",
    "read_state_dict",
    "safetensors_bytes",
    "save_file",
    "save_set",
    "save_weights",
    "set_weights",
    "unpickle_arrays",
]
