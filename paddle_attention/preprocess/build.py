"""Operators by their names in a YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..config import build_by_name, single_item
from ._arguments import as_list
from .auto_augment import AutoAugment, RandAugment, RandAugmentV3
from .decode import DecodeImage
from .erasing import Cutout, HideAndSeek, PCALighting
from .operators import (
    ColorJitter,
    CropImage,
    NormalizeImage,
    RandCropImage,
    RandFlipImage,
    RandomCropImage,
    RandomErasing,
    ResizeImage,
    ToCHWImage,
)
from .padding import Pad, Padv2
from .timm_auto_augment import TimmAutoAugment

OPERATORS = {
    cls.__name__: cls
    for cls in (
        DecodeImage,
        ResizeImage,
        CropImage,
        RandCropImage,
        RandomCropImage,
        RandFlipImage,
        Pad,
        Padv2,
        ColorJitter,
        AutoAugment,
        RandAugment,
        RandAugmentV3,
        TimmAutoAugment,
        Cutout,
        HideAndSeek,
        PCALighting,
        RandomErasing,
        NormalizeImage,
        ToCHWImage,
    )
}


def photographer(items: Any) -> Callable[[np.ndarray], np.ndarray]:
    """What makes a photograph, ``[H, W, 3]`` from 0 to 1, of what a YAML list of operators has made of one."""
    found = [item["NormalizeImage"] for item in items if isinstance(item, dict) and "NormalizeImage" in item]
    return NormalizeImage(**(found[-1] if found and found[-1] else {})).photograph


def build_transforms(items: Any, path: str, max_pixels: int | None = None) -> Callable[..., Any]:
    """One function of an image from a YAML list of operators.

    Args:
        items (list): names, or dicts of one name and its arguments.
        path (str): key path for messages.
        max_pixels (int, optional): of one image file; by default :data:`MAX_PIXELS`.

    Raises:
        ConfigError: naming the key, for anything that cannot be honoured.
    """
    operators = [
        build_by_name(f"{path}.{i}", OPERATORS, *single_item(f"{path}.{i}", item), max_pixels=max_pixels)
        for i, item in enumerate(as_list(items, path))
    ]

    def transform(image: Any) -> np.ndarray:
        for operator in operators:
            image = operator(image)
        return image

    return transform
