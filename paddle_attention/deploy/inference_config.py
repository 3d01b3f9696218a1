"""``inference.yml``: what an exported network needs to classify a photograph, as PaddleClas writes and PaddleX reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..config import ConfigError, single_item
from ..preprocess import POSTPROCESSES, as_number, build_postprocess

_PRESET = re.compile(
    r"[A-Za-z0-9]+_(ResNet\d+\w*)"
)  # SE_ResNet50: PaddleX knows the network without attention
_NOT_OF_ARRAYS = ("DecodeImage",)


def inference_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``Global.model_name``, ``PreProcess.transform_ops`` and ``PostProcess`` of a parsed YAML.

    The name is ``Global.pdx_model_name`` where the YAML has one, else that of the backbone. The classes' names are
    written out, so that no other file is needed.

    Raises:
        ConfigError: naming the key, for a ``PostProcess`` that cannot be honoured.
    """
    settings, infer, arch = (config.get(key) or {} for key in ("Global", "Infer", "Arch"))
    name = settings.get("pdx_model_name") or arch.get("backbone") or arch.get("name")
    preset = _PRESET.fullmatch(str(name))
    found: dict[str, Any] = {"Global": {"model_name": preset[1] if preset else str(name)}}
    if infer.get("transforms"):
        found["PreProcess"] = {
            "transform_ops": [
                _written(f"Infer.transforms.{i}", item)
                for i, item in enumerate(infer["transforms"])
                if single_item(f"Infer.transforms.{i}", item)[0] not in _NOT_OF_ARRAYS
            ]
        }
    if infer.get("PostProcess"):
        found["PostProcess"] = _post(config, dict(infer["PostProcess"]))
    return found


def _post(config: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The section with its classes written out; what only PaddleClas knows as it is."""
    if options.get("name") in list(POSTPROCESSES):
        names = build_postprocess(config).names
        for key in ("class_id_map_file", "delimiter"):
            options.pop(key, None)
        if names:
            options["label_list"] = [names.get(i, str(i)) for i in range(max(names) + 1)]
    return {str(options.pop("name", None)): options}


def _written(path: str, item: Any) -> Any:
    """An operator as readers that take numbers only want it."""
    if isinstance(item, dict) and "NormalizeImage" in item:
        options = dict(item["NormalizeImage"] or {})
        if options.get("scale") is not None:
            try:
                options["scale"] = as_number(options["scale"])
            except ValueError as error:
                raise ConfigError(f"{path}.NormalizeImage.scale: {error}") from error
        return {"NormalizeImage": {**options, "channel_num": 3}}
    return item


def write_inference_config(config: Mapping[str, Any], path: str) -> None:
    """Write :func:`inference_config` of a parsed YAML as YAML."""
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(inference_config(config), file, allow_unicode=True, sort_keys=False)
