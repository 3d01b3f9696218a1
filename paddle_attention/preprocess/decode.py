"""Bytes of a file to an image, or a clear error."""

from __future__ import annotations

import io
import warnings
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ._arguments import choice

MAX_PIXELS = 89_478_485  # of one image: Pillow's own limit, 256 MB of RGB


# Those that OpenCV or Pillow decode by themselves; for others Pillow would start a program.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


class DecodeImage:
    """Bytes of an image file (or an HWC array) to an HWC array.

    Args:
        to_np, to_rgb, channel_first, backend: as in PaddleClas.
        max_pixels (int, optional): refuse larger images before they are decoded.

    Raises:
        ValueError: for a file that is no image, is cut off or damaged, or is too large.
    """

    def __init__(
        self,
        to_np: bool = True,
        to_rgb: bool = True,
        channel_first: bool = False,
        backend: str = "cv2",
        max_pixels: int | None = None,
    ) -> None:
        self.backend = choice("backend", str(backend).lower(), ("cv2", "pil"))
        # Without to_np PaddleClas keeps the backend's own: a picture in RGB, or OpenCV's array in BGR.
        self.to_rgb = to_rgb if to_np else self.backend == "pil"
        self.channel_first = channel_first and to_np
        self.max_pixels = max_pixels or MAX_PIXELS

    def __call__(self, image: Any) -> np.ndarray:
        if isinstance(image, bytes):
            image = self._decode(image)
        if self.to_rgb:
            image = image[:, :, ::-1]
        return image.transpose((2, 0, 1)) if self.channel_first else image

    def _decode(self, data: bytes) -> np.ndarray:
        check_image(data, self.max_pixels)
        if self.backend == "pil":
            with Image.open(io.BytesIO(data)) as picture:
                return _eight_bits(picture)[:, :, ::-1]
        image = cv2.imdecode(np.frombuffer(data, dtype="uint8"), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("not an image that OpenCV can decode")
        return image


def check_image(data: bytes, max_pixels: int) -> None:
    """Raise ValueError for bytes that are no whole image or one of more than ``max_pixels``.

    OpenCV fills what is missing of a file with grey and says nothing.
    """
    if not data:
        raise ValueError("not an image: the file is empty")
    Image.init()
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit, which it would insist on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit on pixels
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_whole(picture, data, max_pixels)
    except ValueError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}; the limit is {max_pixels} (Global.max_image_pixels)") from error
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    except Exception as error:  # Pillow's readers raise nearly anything
        raise ValueError(f"not a whole image: {error or type(error).__name__}") from error


def _eight_bits(picture: Image.Image) -> np.ndarray:
    """The pixels ``[H, W, 3]`` in RGB; of 16 bits the upper eight, as OpenCV takes them."""
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture).astype("int64") >> 8).clip(0, 255).astype("uint8")
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def _check_whole(picture: Image.Image, data: bytes, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(
            f"has {width}x{height} pixels, more than {max_pixels}; make it smaller, or raise "
            "Global.max_image_pixels"
        )
    if picture.format in ("JPEG", "MPO"):
        if not _jpeg_ends(data):
            raise ValueError("not a whole JPEG: its end is missing")
    elif picture.format == "PNG":
        picture.verify()  # the checksums of all parts up to the end, without decoding
    else:
        picture.load()


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG's end marker follows its first scan; those of thumbnails stand before it."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan; in its data 0xFF is always followed by 0x00 or a restart
            return data.find(b"\xff\xd9", position) >= 0
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
