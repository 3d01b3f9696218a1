"""``inference.yml``: what an exported network needs to classify a photograph, as PaddleClas writes and PaddleX reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..preprocess import as_number, build_postprocess

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
            "transform_ops": [_written(item) for item in infer["transforms"] if _kept(item)]
        }
    if infer.get("PostProcess"):
        post, options = build_postprocess(config), dict(infer["PostProcess"])
        for key in ("class_id_map_file", "delimiter"):
            options.pop(key, None)
        kind = options.pop("name")
        if post.names:
            options["label_list"] = [post.names.get(i, str(i)) for i in range(max(post.names) + 1)]
        found["PostProcess"] = {kind: options}
    return found


def _kept(item: Any) -> bool:
    name = item if isinstance(item, str) else next(iter(item))
    return name not in _NOT_OF_ARRAYS


def _written(item: Any) -> Any:
    """An operator as readers that take numbers only want it."""
    if isinstance(item, dict) and "NormalizeImage" in item:
        options = dict(item["NormalizeImage"] or {})
        if options.get("scale") is not None:
            options["scale"] = as_number(options["scale"])
        return {"NormalizeImage": {**options, "channel_num": 3}}
    return item


def write_inference_config(config: Mapping[str, Any], path: str) -> None:
    """Write :func:`inference_config` of a parsed YAML as YAML."""
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(inference_config(config), file, allow_unicode=True, sort_keys=False)
