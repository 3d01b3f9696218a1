"""Attention layers, one mechanism a file; importing the package registers them all.

A file's ``__all__`` names what it offers, and nothing else lists them.
"""

import importlib
import pkgutil

from ._base import MAP_KINDS, AttentionLayer, GateLayer, NoMapError, map_axes

__all__ = ["MAP_KINDS", "AttentionLayer", "GateLayer", "NoMapError", "map_axes"]

for _file in pkgutil.iter_modules(__path__):
    if not _file.name.startswith("_"):
        _module = importlib.import_module(f".{_file.name}", __name__)
        for _name in _module.__all__:
            if _name in __all__:
                raise ImportError(f"{_module.__file__}: {_name} is in another file of the layers, too")
        globals().update({_name: getattr(_module, _name) for _name in _module.__all__})
        __all__ += _module.__all__
