"""The YAML of a command, and its log file."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from .. import ppcls

if TYPE_CHECKING:
    from ..config.reading import Config


def load(options: argparse.Namespace, mode: str) -> Config:
    """Read the YAML and start the log file."""
    ppcls.find_paddleclas(options.paddleclas)
    config = options.read = ppcls.load_config(options.config, options.override)
    settings = config.get("Global")
    directory = settings.get("output_dir") if isinstance(settings, dict) else None
    directory = directory if isinstance(directory, str) else None  # checked later, with a message
    writes = mode in ("train", "eval", "infer", "export")
    ppcls.init_logger(os.path.join(directory or "./output/", f"{mode}.log") if writes else None)
    return config
