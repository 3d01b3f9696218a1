"""Operators that add pixels at the border."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._arguments import choice


class Pad:
    """Add ``padding`` pixels of value ``fill`` on every side."""

    def __init__(self, padding: int, fill: int = 0, backend: str = "cv2") -> None:
        choice("backend", backend, ("cv2",))
        self.padding, self.fill = padding, fill

    def __call__(self, image: np.ndarray) -> np.ndarray:
        p = self.padding
        return np.pad(image, ((p, p), (p, p), (0, 0)), constant_values=self.fill)


class Padv2:
    """Put the image onto a larger canvas of floating-point numbers.

    Args:
        size (int or list of int): of the canvas, ``[width, height]``; None for the next multiple of ``size_divisor``.
        size_divisor (int): see ``size``.
        pad_mode (int): 0 for pixels at the right and the bottom, 1 on all sides, 2 at the left and the top,
            -1 as ``offsets`` says.
        offsets (list of int, optional): pixels ``[left, top]``.
        fill_value (number or three): of the canvas.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        size_divisor: int = 32,
        pad_mode: int = 0,
        offsets: Sequence[int] | None = None,
        fill_value: float | Sequence[float] = (127.5, 127.5, 127.5),
    ) -> None:
        self.pad_mode = choice("pad_mode", pad_mode, (-1, 0, 1, 2))
        self.size = _pair("size", size)
        self.offsets = _pair("offsets", offsets)
        if pad_mode == -1 and self.offsets is None:
            raise ValueError("pad_mode -1 needs offsets, such as [10, 10]")
        if size_divisor < 1:
            raise ValueError(f"size_divisor must be at least 1, but got {size_divisor!r}")
        self.size_divisor, self.fill_value = size_divisor, fill_value

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        new_width, new_height = self.size or (self._next(width), self._next(height))
        free_x, free_y = new_width - width, new_height - height
        left, top = {
            -1: self.offsets or (0, 0),
            0: (0, 0),
            1: (free_x // 2, free_y // 2),
            2: (free_x, free_y),
        }[self.pad_mode]
        if free_x < left or free_y < top:
            raise ValueError(
                f"an image of {width}x{height} at {left}, {top} does not fit into {new_width}x{new_height}"
            )
        canvas = np.ones((new_height, new_width, 3), "float32") * np.array(self.fill_value, "float32")
        canvas[top : top + height, left : left + width] = image
        return canvas

    def _next(self, length: int) -> int:
        return -(-length // self.size_divisor) * self.size_divisor


def _pair(name: str, value: int | Sequence[int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in pair):
        raise ValueError(f"{name} must be two numbers of pixels [x, y], but got {value!r}")
    return pair[0], pair[1]
