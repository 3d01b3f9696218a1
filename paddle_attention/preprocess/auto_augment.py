"""AutoAugment's ImageNet policy and RandAugment, under PaddleClas' names and with its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ._arguments import as_fill, choice
from .distortions import DISTORTIONS, Style, turn_on_grey
from .generators import numpy_random, random

# Table 9 of arXiv 1805.09501: probability, distortion and level, twice.
IMAGENET_POLICY = (
    (0.4, "posterize", 8, 0.6, "rotate", 9),
    (0.6, "solarize", 5, 0.6, "autocontrast", 5),
    (0.8, "equalize", 8, 0.6, "equalize", 3),
    (0.6, "posterize", 7, 0.6, "posterize", 6),
    (0.4, "equalize", 7, 0.2, "solarize", 4),
    (0.4, "equalize", 4, 0.8, "rotate", 8),
    (0.6, "solarize", 3, 0.6, "equalize", 7),
    (0.8, "posterize", 5, 1.0, "equalize", 2),
    (0.2, "rotate", 3, 0.6, "solarize", 8),
    (0.6, "equalize", 8, 0.4, "posterize", 6),
    (0.8, "rotate", 8, 0.4, "color", 0),
    (0.4, "rotate", 9, 0.6, "equalize", 2),
    (0.0, "equalize", 7, 0.8, "equalize", 8),
    (0.6, "invert", 4, 1.0, "equalize", 8),
    (0.6, "color", 4, 1.0, "contrast", 8),
    (0.8, "rotate", 8, 1.0, "color", 2),
    (0.8, "color", 8, 0.8, "solarize", 7),
    (0.4, "sharpness", 7, 0.6, "invert", 8),
    (0.6, "shearX", 5, 1.0, "equalize", 9),
    (0.4, "color", 0, 0.6, "equalize", 3),
    (0.4, "equalize", 7, 0.2, "solarize", 4),
    (0.6, "solarize", 5, 0.6, "autocontrast", 5),
    (0.6, "invert", 4, 1.0, "equalize", 8),
    (0.6, "color", 4, 1.0, "contrast", 8),
    (0.8, "equalize", 8, 0.6, "equalize", 3),
)
# The amount at level 0 and at level 9.
_RANGES = {
    "shearX": (0, 0.3),
    "shearY": (0, 0.3),
    "translateX": (0, 150 / 331),
    "translateY": (0, 150 / 331),
    "rotate": (0, 30),
    "color": (0.0, 0.9),
    "posterize": (8, 4),
    "solarize": (256, 0),
    "contrast": (0.0, 0.9),
    "sharpness": (0.0, 0.9),
    "brightness": (0.0, 0.9),
}
_PIL_MODES = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}


def as_picture(image: np.ndarray) -> Image.Image:
    """An HWC array of bytes as Pillow's picture; raises ValueError for another type."""
    if image.dtype != np.uint8:
        raise ValueError(f"takes images of bytes, but got {image.dtype}; put it before NormalizeImage")
    return Image.fromarray(np.ascontiguousarray(image))


def _amount(name: str, level: int) -> float:
    if name not in _RANGES:
        return 0
    amount = np.linspace(*_RANGES[name], 10)[level]
    return int(np.round(amount)) if name == "posterize" else amount


class AutoAugment:
    """One of the 25 sub-policies for ImageNet, chosen at random: two distortions, each with its probability.

    Args:
        fillcolor (list of int): of what comes into the image from outside.
    """

    def __init__(self, fillcolor: Any = (128, 128, 128)) -> None:
        self.style = Style(as_fill("fillcolor", fillcolor), turn=turn_on_grey)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        picture = as_picture(image)
        p1, first, level1, p2, second, level2 = IMAGENET_POLICY[random.randint(0, len(IMAGENET_POLICY) - 1)]
        for probability, name, level in ((p1, first, level1), (p2, second, level2)):
            if random.random() < probability:
                picture = DISTORTIONS[name](picture, _amount(name, level), self.style)
        return np.asarray(picture)


class RandAugment:
    """``num_layers`` distortions chosen at random, all of one ``magnitude`` of 10.

    Args:
        num_layers (int): how many, one after the other.
        magnitude (float): from 0 to 10.
        fillcolor (list of int): of what comes into the image from outside.
    """

    def __init__(self, num_layers: int = 2, magnitude: float = 5, fillcolor: Any = (128, 128, 128)) -> None:
        self.num_layers = num_layers
        self.style = self._style(as_fill("fillcolor", fillcolor))
        self.amounts = self._amounts(magnitude / 10)

    def _style(self, fill: tuple[int, ...]) -> Style:
        return Style(fill, turn=turn_on_grey)

    def _amounts(self, share: float) -> dict[str, float]:
        """Amounts at this share of the largest magnitude."""
        largest = {name: high for name, (_, high) in _RANGES.items()}
        amounts = {name: largest.get(name, 0) * share for name in DISTORTIONS}
        return {**amounts, "posterize": int(4.0 * share), "solarize": 256.0 * share}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        picture, names = as_picture(image), list(DISTORTIONS)
        for _ in range(self.num_layers):
            name = str(numpy_random.choice(names))
            picture = DISTORTIONS[name](picture, self.amounts[name], self.style)
        return np.asarray(picture)


class RandAugmentV3(RandAugment):
    """RandAugment as MobileViTV2 is trained with: more distortion with more magnitude throughout.

    Args:
        num_layers, magnitude, fillcolor: see :class:`RandAugment`.
        interpolation (str): of geometric distortions.
    """

    def __init__(
        self,
        num_layers: int = 2,
        magnitude: float = 3,
        fillcolor: Any = (0, 0, 0),
        interpolation: str = "bicubic",
    ) -> None:
        self.mode = pil_mode(interpolation)
        super().__init__(num_layers, magnitude, fillcolor)

    def _style(self, fill: tuple[int, ...]) -> Style:
        return Style(fill, self.mode, self.mode)

    def _amounts(self, share: float) -> dict[str, float]:
        return {**super()._amounts(share), "posterize": 8 - int(4.0 * share), "solarize": 255.0 * (1 - share)}


def pil_mode(interpolation: str) -> Image.Resampling:
    """Pillow's name of a kind of resampling; raises ValueError for an unknown one."""
    return _PIL_MODES[choice("interpolation", str(interpolation).lower(), _PIL_MODES)]
