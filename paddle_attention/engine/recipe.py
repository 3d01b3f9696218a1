"""Check a recipe without its data and without building its network: would this engine train it?"""

from __future__ import annotations

import copy
from typing import Any

from paddle import nn

from ..config import arguments_by_name, check_config
from ..preprocess import build_batch_transforms, build_transforms
from .data import SAMPLERS, build_transform, check_part, loader_options
from .datasets import DATASETS
from .losses import CombinedLoss
from .metrics import refuse_set_metrics
from .optim import build_optimizer
from .scores import build_metrics

_CLASSES = 1000


def check_recipe(config: dict[str, Any]) -> None:
    """Raise for the first thing in a YAML for training that the embedded engine cannot honour.

    Neither the data need be there nor is the network built, so that many YAMLs can be looked through
    quickly; the device is not looked at.

    Args:
        config (dict): the parsed YAML; it is not changed.

    Raises:
        ConfigError: naming the key.
    """
    config = copy.deepcopy(config)
    check_config(config, "train")
    classes = (config["Arch"] or {}).get("class_num") or _CLASSES
    multilabel = bool(config["Global"].get("use_multilabel"))
    for part in ("Train", "Eval"):
        section = config["DataLoader"].get(part)
        if section:
            _check_part(section, f"DataLoader.{part}", classes, multilabel)
    infer = config.get("Infer")
    if infer:
        build_transforms(infer.get("transforms"), "Infer.transforms")
    for part in ("Train", "Eval"):
        if (config.get("Loss") or {}).get(part):
            CombinedLoss(config["Loss"][part], f"Loss.{part}", multilabel)
        metrics = build_metrics((config.get("Metric") or {}).get(part), f"Metric.{part}", multilabel)
        if part == "Train":
            refuse_set_metrics(metrics, "Metric.Train")
    build_optimizer(config, nn.Linear(1, 1), config["Global"]["epochs"], 100)


def _check_part(section: dict[str, Any], path: str, classes: int, multilabel: bool) -> None:
    check_part(section, path, multilabel)
    options = dict(section["dataset"])
    name = options.pop("name", None)
    build_transform(name, options.pop("transform_ops", None), f"{path}.dataset.transform_ops", None)
    mixing = options.pop("batch_transform_ops", None)
    if mixing:
        build_batch_transforms(mixing, f"{path}.dataset.batch_transform_ops", classes)
    arguments_by_name(f"{path}.dataset", DATASETS, name, options, transform=None)
    options = dict(section["sampler"])
    sampler = options.pop("name", "BatchSampler")
    arguments_by_name(f"{path}.sampler", SAMPLERS, sampler, options, dataset=None)
    arguments_by_name(path, {"loader": loader_options}, "loader", section["loader"])
