"""The images of a configuration's ``Infer`` section, in batches through a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..config import ConfigError
from .build import build_transforms
from .images import list_images, read_batches
from .postprocess import build_postprocess

logger = logging.getLogger("ppcls")


class Classification:
    """What ``Infer`` says: which images, how they become arrays, and scores become classes.

    Args:
        config (dict): a checked configuration.

    Raises:
        ConfigError: naming the key, for what cannot be honoured.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.section, settings = config["Infer"], config.get("Global") or {}
        if not self.section.get("infer_imgs"):
            raise ConfigError("Infer.infer_imgs: missing; give an image or a folder")
        self.transform = build_transforms(
            self.section["transforms"], "Infer.transforms", settings.get("max_image_pixels")
        )
        self.postprocess = build_postprocess(config)
        self.skip: Callable[[str], None] | None = (
            logger.warning if settings.get("on_bad_image") == "skip" else None
        )

    def __call__(self, predict: Callable[[np.ndarray], np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """Classify the images.

        Args:
            predict (callable): ``float32 [n, 3, H, W] -> probabilities [n, classes]``.

        Yields:
            list of dict: the results of a batch, one per image.

        Raises:
            FileNotFoundError: if there is no image.
            DataError: naming the image, for one that cannot be read.
        """
        paths, size = list_images(self.section["infer_imgs"]), self.section.get("batch_size") or 1
        for names, images in read_batches(paths, self.transform, size, self.skip):
            yield self.postprocess(predict(images), names)
