"""Operators that hide parts of an image or shift its colours, under PaddleClas' names and with its numbers."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ._arguments import choice
from .generators import numpy_random, random

# Eigenvalues and eigenvectors of ImageNet's colours, as in AlexNet.
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], "float32")
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], "float32"
)
_GRIDS = (0, 16, 32, 44, 56)


class Cutout:
    """Hide ``n_holes`` squares at random places, arXiv 1708.04552.

    Args:
        n_holes (int): how many.
        length (int): of their sides, in pixels.
        fill_value (list of int or str, optional): ``[0, 0, 0]``, or ``'none'`` for a random colour.
    """

    def __init__(self, n_holes: int = 1, length: int = 112, fill_value: Any = (0, 0, 0)) -> None:
        self.n_holes, self.half = n_holes, length // 2
        if fill_value != "none" and fill_value is not None:
            choice("fill_value", tuple(fill_value), ((0, 0, 0),))
            fill_value = (0, 0, 0)
        self.random_colour = fill_value is None or fill_value == "none"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        image = np.array(image)
        height, width = image.shape[:2]
        for _ in range(self.n_holes):
            y, x = numpy_random.randint(height), numpy_random.randint(width)
            (top, bottom), (left, right) = (
                np.clip((at - self.half, at + self.half), 0, size) for at, size in ((y, height), (x, width))
            )
            if self.random_colour:
                colour = [random.randint(0, 255) for _ in range(3)]
                corners = (int(left), int(top)), (int(right), int(bottom))
                image = cv2.rectangle(image, *corners, colour, -1)
            else:
                image[top:bottom, left:right] = 0
        return image


class HideAndSeek:
    """Hide every cell of a grid of random size with probability 1/2, arXiv 1704.04232; takes CHW."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        cell = int(numpy_random.choice(_GRIDS))
        if cell == 0:
            return image
        image = np.array(image)
        _, height, width = image.shape
        for x in range(0, width, cell):
            for y in range(0, height, cell):
                if random.random() <= 0.5:
                    # Rows by x and columns by y, as published; on square images it is the same.
                    image[:, x : min(width, x + cell), y : min(height, y + cell)] = 0
        return image


class PCALighting:
    """Add a random mixture of the principal colours of ImageNet, as AlexNet was trained; takes HWC."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        strength = numpy_random.normal(0, 0.1, size=3).astype("float32")
        return image + (_EIGENVECTORS * strength * _EIGENVALUES).sum(1)
