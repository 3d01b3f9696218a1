"""Image operators under PaddleClas' names: an image is an HWC array, RGB after ``DecodeImage``."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..config import ConfigError
from ._arguments import as_number, choice, pair
from .generators import numpy_random, random

_CV2_MODES = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "random": (cv2.INTER_LINEAR, cv2.INTER_CUBIC),
}


_PIL_MODES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}


_LARGEST = 100_000_000  # pixels of a resized image


class _Resizer:
    """Resize to ``(width, height)`` with OpenCV or Pillow."""

    def __init__(self, interpolation: str | None, backend: str) -> None:
        self.backend = choice("backend", str(backend).lower(), ("cv2", "pil"))
        modes = _CV2_MODES if self.backend == "cv2" else _PIL_MODES
        interpolation = str(interpolation or "bilinear").lower()
        self.mode: Any = modes[choice("interpolation", interpolation, tuple(modes))]

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        mode = random.choice(self.mode) if isinstance(self.mode, tuple) else self.mode
        if size[0] * size[1] > _LARGEST:
            raise ValueError(f"would be resized to {size[0]}x{size[1]} pixels, more than {_LARGEST}")
        if self.backend == "cv2":
            return cv2.resize(image, size, interpolation=mode)
        return np.asarray(Image.fromarray(image).resize(size, mode))


class ResizeImage:
    """Resize to ``size`` (``[width, height]``), or so that the short side is ``resize_short``."""

    def __init__(
        self,
        size: int | list[int] | None = None,
        resize_short: int | None = None,
        interpolation: str | None = None,
        backend: str = "cv2",
    ) -> None:
        if (size is None) == (resize_short is None):
            raise ValueError("give one of size and resize_short")
        self.size = None if size is None else pair("size", size)
        self.resize_short = resize_short
        self.resize = _Resizer(interpolation, backend)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.size is not None:
            return self.resize(image, self.size)
        height, width = image.shape[:2]
        ratio = float(self.resize_short or 0) / min(width, height)
        return self.resize(image, (round(width * ratio), round(height * ratio)))


class CropImage:
    """Crop the centre, ``size`` is ``[width, height]``."""

    def __init__(self, size: int | list[int]) -> None:
        self.width, self.height = pair("size", size)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if height < self.height or width < self.width:
            raise ValueError(f"cannot crop {self.width}x{self.height} from a {width}x{height} image")
        left, top = self._corner(width - self.width, height - self.height)
        return image[top : top + self.height, left : left + self.width]

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        """Left and top, of at most ``width`` and ``height``."""
        return width // 2, height // 2


class RandCropImage:
    """Crop a random area (a share ``scale`` of the image) of random ``ratio``, resize to ``size``."""

    def __init__(
        self,
        size: int,
        scale: list[float] | None = None,
        ratio: list[float] | None = None,
        interpolation: Any = None,
        use_log_aspect: bool = False,
        backend: str = "cv2",
    ) -> None:
        self.size = pair("size", size)
        self.scale = scale or [0.08, 1.0]
        self.ratio = ratio or [3.0 / 4.0, 4.0 / 3.0]
        self.use_log_aspect = use_log_aspect
        self.resize = _Resizer(interpolation, backend)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if self.use_log_aspect:
            aspect = math.exp(random.uniform(*map(math.log, self.ratio)))
        else:
            aspect = random.uniform(*self.ratio)
        # No crop of this aspect is larger than this share of the image.
        largest = min(width / height / aspect, height / width * aspect)
        low, high = (min(s, largest) for s in self.scale)
        area = width * height * random.uniform(low, high)
        crop_w = max(1, min(width, int(math.sqrt(area * aspect))))
        crop_h = max(1, min(height, int(math.sqrt(area / aspect))))
        left, top = random.randint(0, width - crop_w), random.randint(0, height - crop_h)
        return self.resize(image[top : top + crop_h, left : left + crop_w], self.size)


class RandomCropImage(CropImage):
    """Crop ``size`` (``[width, height]``) at a random place."""

    def _corner(self, width: int, height: int) -> tuple[int, int]:
        top = random.randint(0, height)
        return random.randint(0, width), top


class RandFlipImage:
    """Flip with probability 1/2: left-right (1), upside down (0) or both (-1)."""

    def __init__(self, flip_code: int = 1) -> None:
        self.flip_code = choice("flip_code", flip_code, (1, 0, -1))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return cv2.flip(image, self.flip_code) if random.random() < 0.5 else image


class ColorJitter:
    """``paddle.vision.transforms.ColorJitter``, applied with probability ``prob``."""

    def __init__(
        self, prob: int = 2, brightness: float = 0, contrast: float = 0, saturation: float = 0, hue: float = 0
    ) -> None:
        from paddle.vision import transforms

        self.prob = prob
        kinds = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.steps = []
        for name, amount in kinds.items():
            limits = getattr(transforms, f"{name.capitalize()}Transform")(amount).value
            self.steps.append((getattr(transforms.functional, f"adjust_{name}"), limits))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if random.random() >= self.prob:
            return image
        picture, steps = Image.fromarray(np.ascontiguousarray(image)), list(self.steps)
        random.shuffle(steps)
        for adjust, limits in steps:
            if limits is not None:
                picture = adjust(picture, random.uniform(*limits))
        return np.asarray(picture)


class RandomErasing:
    """Erase a random rectangle, arXiv 1708.04896.

    ``EPSILON`` is the probability, ``[sl, sh]`` the range of the erased share
    and ``[r1, 1/r1]`` of the aspect ratio; ``mode`` fills with ``mean``
    (``const``), one random colour (``rand``) or noise (``pixel``).
    """

    def __init__(
        self,
        EPSILON: float = 0.5,
        sl: float = 0.02,
        sh: float = 0.4,
        r1: float = 0.3,
        mean: list[int] | tuple[float, float, float] = (0.0, 0.0, 0.0),
        attempt: int = 100,
        use_log_aspect: bool = False,
        mode: str = "const",
    ) -> None:
        self.probability, self.low, self.high, self.aspect = map(as_number, (EPSILON, sl, sh, r1))
        self.mean = np.asarray(mean, dtype="float32")
        self.attempt = attempt
        self.use_log_aspect = use_log_aspect
        self.mode = choice("mode", mode, ("const", "rand", "pixel"))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if random.random() > self.probability:
            return image
        height, width, channels = image.shape
        for _ in range(self.attempt):
            area = random.uniform(self.low, self.high) * height * width
            if self.use_log_aspect:
                aspect = math.exp(random.uniform(math.log(self.aspect), -math.log(self.aspect)))
            else:
                aspect = random.uniform(self.aspect, 1 / self.aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = random.randint(0, height - h), random.randint(0, width - w)
                image = np.array(image)
                image[top : top + h, left : left + w] = self._fill(h, w, channels)
                return image
        return image

    def _fill(self, height: int, width: int, channels: int) -> np.ndarray:
        if self.mode == "const":
            return self.mean
        size = (height, width, channels) if self.mode == "pixel" else (1, 1, channels)
        return numpy_random.normal(size=size)


class NormalizeImage:
    """``(image * scale - mean) / std`` in float32; ``order`` is ``'chw'`` or else HWC."""

    def __init__(
        self,
        scale: int | str | None = None,
        mean: list[Any] | None = None,
        std: list[Any] | None = None,
        order: str = "chw",
        output_fp16: bool = False,
        channel_num: int = 3,
    ) -> None:
        choice("channel_num", channel_num, (3,))
        self.axis, shape = (0, (3, 1, 1)) if order == "chw" else (2, (1, 1, 3))
        self.scale = np.float32(1.0 / 255.0 if scale is None else as_number(scale))
        self.mean = np.array(mean or [0.485, 0.456, 0.406]).reshape(shape).astype("float32")
        self.std = np.array(std or [0.229, 0.224, 0.225]).reshape(shape).astype("float32")
        self.dtype = "float16" if output_fp16 else "float32"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.ndim != 3 or image.shape[self.axis] != 3:
            raise ConfigError(
                f"NormalizeImage.order: an image of shape {list(image.shape)} has no 3 channels on axis {self.axis}; "
                "order is 'chw' after ToCHWImage, and '' or 'hwc' before"
            )
        return ((image.astype("float32") * self.scale - self.mean) / self.std).astype(self.dtype)

    def photograph(self, image: np.ndarray) -> np.ndarray:
        """``[3, H, W]`` as this operator and what follows it made it, back to ``[H, W, 3]`` from 0 to 1."""
        mean, std = self.mean.reshape(3, 1, 1), self.std.reshape(3, 1, 1)
        return np.clip((image * std + mean) / (255 * self.scale), 0, 1).transpose(1, 2, 0)


class ToCHWImage:
    """HWC to CHW."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image.transpose((2, 0, 1))
