"""The ``Arch`` section of a YAML: one network, or several in one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import nn

from ..config import short
from ..naming import did_you_mean
from . import backbones
from .arguments import check_used


def check(section: dict[str, Any]) -> None:
    """Raise ValueError, with the key's path, for a name that is no network and a section that is not well formed."""
    check_name("Arch", section.get("name"))
    _check_shape(section)
    for path, part in parts(section):
        check_name(path, part.get("name"))


# Keys of a network's section that PaddleClas reads itself.
_READ_BEFORE = (
    "name",
    "use_sync_bn",
    "class_num",
    "is_rec",
    "infer_model_name",
    "infer_output_key",
    "infer_add_softmax",
)


def check_all_used(section: dict[str, Any], network: nn.Layer) -> None:
    """Raise ValueError for a key that one of PaddleClas' own networks would drop in silence."""
    built = {"Arch": (section, network)}
    for path, part in parts(section):
        sublayer = "backbone" if path == "Arch.Backbone" else path.rpartition(".")[2]
        built[path] = (part, getattr(network, sublayer, None))
    for path, (part, layer) in built.items():
        if part["name"] in backbones.__all__ or layer is None:
            continue
        if "attention" in part:
            raise ValueError(
                f"{path}.attention: {part['name']} is PaddleClas' own network and takes none; write name: AttentionNet "
                f"and backbone: {part['name']} instead"
            )
        given = {key: value for key, value in part.items() if key not in _READ_BEFORE}
        factory: Any = getattr(importlib.import_module("ppcls.arch"), part["name"])
        check_used(path, part["name"], factory, type(layer), given)


def check_name(path: str, name: Any) -> None:
    """Raise ValueError unless PaddleClas has a network ``name``; ``path`` is that of its section."""
    arch = importlib.import_module("ppcls.arch")
    if not isinstance(name, str) or not backbones.is_network(getattr(arch, name, None)):
        known = [n for n, v in vars(arch).items() if backbones.is_network(v)]
        raise ValueError(f"{path}.name: PaddleClas has no network {name!r}{did_you_mean(name, known)}")


def parts(section: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(path, section)`` of the networks in a section that holds several: ``RecModel``, ``DistillationModel``."""
    if isinstance(section.get("Backbone"), dict):
        yield "Arch.Backbone", section["Backbone"]
    models = section.get("models")
    for i, model in enumerate(models if isinstance(models, list) else []):
        for key, part in model.items() if isinstance(model, dict) else ():
            if isinstance(part, dict):
                yield f"Arch.models.{i}.{key}", part


def _check_shape(section: dict[str, Any]) -> None:
    """Raise ValueError where a section of several networks is not written as PaddleClas reads it."""
    name = section.get("name")
    if name == "RecModel" and not isinstance(section.get("Backbone"), dict):
        raise ValueError(f"Arch.Backbone: must be a dict with a 'name', but got {section.get('Backbone')!r}")
    if name == "DistillationModel":
        models = section.get("models")
        listed: list[Any] = models if isinstance(models, list) else [None]
        good = all(isinstance(m, dict) and len(m) == 1 for m in listed)
        if not good or any(not isinstance(part, dict) for m in listed for part in m.values()):
            raise ValueError(
                "Arch.models: must be a list of one network each, such as - Student: {name: SE_ResNet18}, but got "
                f"{short(models)}"
            )


def path_of(error: ValueError, section: dict[str, Any]) -> str:
    """The path of the network that an error is about, of those in ``section``: the first that fails alone like it."""
    for path, part in parts(section):
        if part.get("name") in backbones.__all__:
            try:
                with paddle.utils.unique_name.guard():
                    getattr(backbones, part["name"])(**{k: v for k, v in part.items() if k != "name"})
            except ValueError as again:
                if str(again) == str(error):
                    return path
    return "Arch"
