"""A thin training engine on ``paddle.Model`` for PaddleClas YAMLs.

It stands in where there is no PaddleClas source tree (the ``paddleclas`` package
has the networks, but no engine), reads the same YAML, writes the same
checkpoints and log lines, and refuses what it cannot honour.
"""

from ..config import ConfigError, check_config, move_class_num
from ..preprocess import TopkPostProcess, build_transforms, list_images, read_batches
from .data import build_loader
from .engine import Engine
from .recipe import check_recipe

__all__ = [
    "ConfigError",
    "Engine",
    "TopkPostProcess",
    "build_loader",
    "build_transforms",
    "check_config",
    "check_recipe",
    "list_images",
    "move_class_num",
    "read_batches",
]
