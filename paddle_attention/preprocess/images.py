"""Image files in, batches out: for prediction from a checkpoint and from an exported model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from ..config import ConfigError, DataError
from ..files import read_regular_file

#: How the names of image files end, in lower case.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")


def list_images(path: str) -> list[str]:
    """The image file ``path``, or all images below the directory ``path``, sorted.

    Raises:
        FileNotFoundError: if there is none.
    """
    if os.path.isfile(path):
        return [path]
    found = [
        os.path.join(root, name)
        for root, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(IMAGE_ENDINGS)
    ]
    if not found:
        raise FileNotFoundError(f"{path!r} is not an image and holds none ({', '.join(IMAGE_ENDINGS)})")
    return sorted(found)


def read_batches(
    paths: list[str],
    transform: Callable[[bytes], np.ndarray],
    batch_size: int,
    skip: Callable[[str], None] | None = None,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield ``(paths, float32 array [n, 3, H, W])``.

    Args:
        paths (list of str): image files.
        transform (callable): bytes to an array ``[3, H, W]``.
        batch_size (int): images at a time.
        skip (callable, optional): gets the message about an image that cannot be read, which is
            then left out.

    Raises:
        DataError: naming the image, if it cannot be read, or has another size than the others.
    """
    for start in range(0, len(paths), batch_size):
        names: list[str] = []
        images: list[np.ndarray] = []
        for name in paths[start : start + batch_size]:
            try:
                images.append(_read_image(name, transform, images))
                names.append(name)
            except DataError as error:
                if skip is None:
                    raise
                skip(str(error))
        if images:
            yield names, np.stack(images)


def _read_image(name: str, transform: Callable[[bytes], np.ndarray], others: list[np.ndarray]) -> np.ndarray:
    try:
        image = np.asarray(transform(read_regular_file(name)))
        if image.ndim != 3:
            raise ValueError(f"the operators make an array of shape {list(image.shape)} of it")
    except ConfigError:
        raise
    except Exception as error:
        raise DataError(f"image {name}: {error or type(error).__name__}") from error
    if others and image.shape != others[0].shape:
        raise DataError(
            f"image {name}: is {list(image.shape)} where the images before it are {list(others[0].shape)}; "
            "add ResizeImage and CropImage to Infer.transforms, or set Infer.batch_size: 1"
        )
    return image
