"""RandAugment in the form of timm's ``rand-m9-mstd0.5-inc1``, under PaddleClas' name and with its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .auto_augment import as_picture, pil_mode
from .distortions import Picture, affine, posterize, solarize_add
from .generators import numpy_random, random

_LARGEST = 10.0  # level
_SPEC = re.compile(r"([a-z]+)(\d.*)")
_KEYS = ("m", "n", "w", "mstd", "inc")


@dataclass(frozen=True)
class _Move:
    """What geometric distortions are given: a colour for the outside, and one resampling or a choice."""

    fill: tuple[int, ...]
    modes: tuple[Image.Resampling, ...]

    def mode(self) -> Image.Resampling:
        return self.modes[0] if len(self.modes) == 1 else random.choice(self.modes)

    def affine(self, picture: Picture, *matrix: float) -> Picture:
        return affine(picture, matrix, self.mode(), self.fill)

    def turn(self, picture: Picture, angle: float) -> Picture:
        return picture.rotate(angle, self.mode(), fillcolor=self.fill)


def _either(amount: float) -> float:
    """In one of the two directions."""
    return -amount if random.random() > 0.5 else amount


def _up_to(largest: float) -> Callable[[float], float]:
    return lambda level: _either(level / _LARGEST * largest)


def _enhanced(level: float) -> float:
    return level / _LARGEST * 1.8 + 0.1


def _enhanced_more(level: float) -> float:
    return 1.0 + _either(level / _LARGEST * 0.9)


def _posterize(picture: Picture, bits: int, move: _Move) -> Picture:
    return picture if bits >= 8 else posterize(picture, bits)


def _with(kind: Any) -> Callable[[Picture, float, _Move], Picture]:
    return lambda picture, factor, move: kind(picture).enhance(factor)


def _without_amount(function: Callable[[Picture], Picture]) -> Callable[[Picture, float, _Move], Picture]:
    return lambda picture, amount, move: function(picture)


def _nothing(level: float) -> float:
    return 0.0


# Each: what it does, its amount of a level, and the same where more level is to mean more distortion ("inc").
# The order is that of the draw.
_OPERATIONS: tuple[tuple[Callable[[Picture, Any, _Move], Picture], Any, Any], ...] = (
    (_without_amount(ImageOps.autocontrast), _nothing, _nothing),
    (_without_amount(ImageOps.equalize), _nothing, _nothing),
    (_without_amount(ImageOps.invert), _nothing, _nothing),
    (lambda picture, angle, move: move.turn(picture, angle), _up_to(30.0), _up_to(30.0)),
    (_posterize, lambda level: int(level / _LARGEST * 4), lambda level: 4 - int(level / _LARGEST * 4)),
    (
        lambda picture, threshold, move: ImageOps.solarize(picture, threshold),
        lambda level: int(level / _LARGEST * 256),
        lambda level: 256 - int(level / _LARGEST * 256),
    ),
    (
        lambda picture, amount, move: solarize_add(picture, amount),
        lambda level: int(level / _LARGEST * 110),
        lambda level: int(level / _LARGEST * 110),
    ),
    (_with(ImageEnhance.Color), _enhanced, _enhanced_more),
    (_with(ImageEnhance.Contrast), _enhanced, _enhanced_more),
    (_with(ImageEnhance.Brightness), _enhanced, _enhanced_more),
    (_with(ImageEnhance.Sharpness), _enhanced, _enhanced_more),
    (lambda picture, x, move: move.affine(picture, 1, x, 0, 0, 1, 0), _up_to(0.3), _up_to(0.3)),
    (lambda picture, x, move: move.affine(picture, 1, 0, 0, x, 1, 0), _up_to(0.3), _up_to(0.3)),
    (
        lambda picture, x, move: move.affine(picture, 1, 0, x * picture.size[0], 0, 1, 0),
        _up_to(0.45),
        _up_to(0.45),
    ),
    (
        lambda picture, x, move: move.affine(picture, 1, 0, 0, 0, 1, x * picture.size[1]),
        _up_to(0.45),
        _up_to(0.45),
    ),
)
# timm's first set of weights ("w0"), in the order of the operations.
_WEIGHTS = (0.025, 0.005, 0, 0.3, 0, 0.005, 0.005, 0.025, 0.005, 0.005, 0.025, 0.2, 0.2, 0.1, 0.1)


class TimmAutoAugment:
    """``n`` distortions chosen at random, each applied with probability 1/2, of a magnitude about ``m`` of 10.

    Args:
        prob (float): probability that an image is touched at all.
        config_str (str): ``rand`` and then, separated by dashes, ``m`` magnitude (10), ``n`` how many (2),
            ``mstd`` the standard deviation of the magnitude (0), ``inc1`` for distortions that grow with
            it, ``w0`` for unequal chances.
        interpolation (str): of geometric distortions; ``'random'`` for bilinear or bicubic.
        img_size (int or list): as in PaddleClas, of no effect with ``rand``.
        mean (list of float): colour of what comes into the image from outside, 0 to 1.
    """

    def __init__(
        self,
        prob: float = 1.0,
        config_str: str = "rand-m9-mstd0.5-inc1",
        interpolation: str = "bicubic",
        img_size: Any = 224,
        mean: Any = (0.485, 0.456, 0.406),
    ) -> None:
        self.prob = prob
        options = _parse(config_str)
        self.magnitude, self.number = int(options.get("m", _LARGEST)), int(options.get("n", 2))
        self.deviation, self.growing = float(options.get("mstd", 0)), "inc" in options
        self.weights = np.array(_WEIGHTS) / np.sum(_WEIGHTS) if "w" in options else None
        self.move = _Move(
            tuple(min(255, round(255 * value)) for value in mean),
            (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
            if interpolation == "random"
            else (pil_mode(interpolation),),
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        picture = as_picture(image)
        if random.random() >= self.prob:
            return np.asarray(picture)
        chosen = numpy_random.choice(
            len(_OPERATIONS), self.number, replace=self.weights is None, p=self.weights
        )
        for number in chosen:
            picture = self._distort(picture, *_OPERATIONS[number])
        return np.asarray(picture)

    def _distort(self, picture: Picture, operation: Any, amount: Any, growing: Any) -> Picture:
        if random.random() > 0.5:
            return picture
        level = random.gauss(self.magnitude, self.deviation) if self.deviation > 0 else self.magnitude
        level = min(_LARGEST, max(0, level))
        return operation(picture, (growing if self.growing else amount)(level), self.move)


def _parse(text: str) -> dict[str, str]:
    """``{'m': '9', ...}`` of ``rand-m9-...``; raises ValueError for what is no such text."""
    name, *parts = str(text).strip().split("-")
    found = {}
    for part in parts:
        match = _SPEC.fullmatch(part)
        if match is None or match[1] not in _KEYS or match[1] in found:
            raise ValueError(
                f"config_str {text!r}: {part!r} is none of m, n, w, mstd, inc with a number, once each"
            )
        found[match[1]] = match[2]
    if name != "rand":
        raise ValueError(f"config_str must begin with 'rand', but got {text!r}")
    if found.get("inc", "1") != "1" or found.get("w", "0") != "0":  # PaddleClas takes inc0 for inc1
        raise ValueError(f"config_str {text!r}: inc is 1, or left out; the only set of weights is w0")
    if (
        "w" in found
        and found.get("n", "2").isdigit()
        and int(found.get("n", "2")) > np.count_nonzero(_WEIGHTS)
    ):
        raise ValueError(
            f"config_str {text!r}: with w0 no distortion comes twice, and only {np.count_nonzero(_WEIGHTS)} of them can "
            "come; give a smaller n"
        )
    for key, kind in (("m", int), ("n", int), ("mstd", float)):
        try:
            kind(found.get(key, "1"))
        except ValueError as error:
            raise ValueError(f"config_str {text!r}: {key} has {found[key]!r} for a number") from error
    return found
