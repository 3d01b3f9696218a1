"""Distortions of a picture by an amount: what AutoAugment and RandAugment choose from.

A distortion is a function of ``(picture, amount, style)``. Those in :data:`SIGNED` take their amount in a
random direction. Sources: AutoAugment, arXiv 1805.09501 (Table 6); RandAugment, arXiv 1909.13719.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

from .generators import random

Picture = Image.Image
Fill = tuple[int, ...]


@dataclass(frozen=True)
class Style:
    """How geometric distortions are computed.

    Attributes:
        fill: colour of what comes into the picture from outside.
        shear, shift: resampling of shears, and of translations.
        turn: how a picture is rotated by an angle in degrees; None as the others, by a random sign.
    """

    fill: Fill = (128, 128, 128)
    shear: Image.Resampling = Image.Resampling.BICUBIC
    shift: Image.Resampling = Image.Resampling.NEAREST
    turn: Callable[[Picture, float], Picture] | None = None


def affine(picture: Picture, matrix: tuple[float, ...], resample: Image.Resampling, fill: Fill) -> Picture:
    """The picture whose pixel ``(x, y)`` is the given one's at ``matrix (x, y, 1)``."""
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def turn_on_grey(picture: Picture, angle: float) -> Picture:
    """Rotated, on half-transparent grey, as the published AutoAugment code does it."""
    turned = picture.convert("RGBA").rotate(angle)
    ground = Image.new("RGBA", turned.size, (128,) * 4)
    return Image.composite(turned, ground, turned).convert(picture.mode)


def _sign() -> int:
    return random.choice([-1, 1])


def shear_x(picture: Picture, amount: float, style: Style) -> Picture:
    return affine(picture, (1, amount * _sign(), 0, 0, 1, 0), style.shear, style.fill)


def shear_y(picture: Picture, amount: float, style: Style) -> Picture:
    return affine(picture, (1, 0, 0, amount * _sign(), 1, 0), style.shear, style.fill)


def translate_x(picture: Picture, amount: float, style: Style) -> Picture:
    return affine(picture, (1, 0, amount * picture.size[0] * _sign(), 0, 1, 0), style.shift, style.fill)


def translate_y(picture: Picture, amount: float, style: Style) -> Picture:
    return affine(picture, (1, 0, 0, 0, 1, amount * picture.size[1] * _sign()), style.shift, style.fill)


def rotate(picture: Picture, amount: float, style: Style) -> Picture:
    if style.turn is not None:
        return style.turn(picture, amount)
    return picture.rotate(amount * _sign(), style.shear, fillcolor=style.fill)


def posterize(picture: Picture, amount: int, style: Style | None = None) -> Picture:
    """``amount`` bits of every value; none are black, which new versions of Pillow refuse to compute."""
    return ImageOps.posterize(picture, int(amount)) if amount >= 1 else picture.point([0] * 256 * 3)


def solarize(picture: Picture, amount: float, style: Style) -> Picture:
    return ImageOps.solarize(picture, amount)  # type: ignore[arg-type]


def solarize_add(picture: Picture, amount: int) -> Picture:
    """``amount`` added to all values below 128."""
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def _enhanced(kind: Any) -> Callable[[Picture, float, Style], Picture]:
    return lambda picture, amount, style: kind(picture).enhance(1 + amount * _sign())


def _fixed(function: Callable[[Picture], Picture]) -> Callable[[Picture, float, Style], Picture]:
    return lambda picture, amount, style: function(picture)


DISTORTIONS: dict[str, Callable[[Picture, Any, Style], Picture]] = {
    "shearX": shear_x,
    "shearY": shear_y,
    "translateX": translate_x,
    "translateY": translate_y,
    "rotate": rotate,
    "color": _enhanced(ImageEnhance.Color),
    "posterize": posterize,
    "solarize": solarize,
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "autocontrast": _fixed(ImageOps.autocontrast),
    "equalize": _fixed(ImageOps.equalize),
    "invert": _fixed(ImageOps.invert),
}
