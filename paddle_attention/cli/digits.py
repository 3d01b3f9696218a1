"""scikit-learn's 1,797 real handwritten digits as image files with PaddleClas lists."""

from __future__ import annotations

import os

import numpy as np

_TEST_EVERY = 5


def write_digits(directory: str) -> tuple[int, int]:
    """Write ``<class>/<number>.bmp`` and ``train_list.txt``, ``test_list.txt``, ``label_list.txt``.

    Every fifth image of each class is held out for testing. The images are the
    original 8 x 8 pixels, uncompressed: with Paddle 2.6 OpenCV crashes on PNG
    files in programs that import Paddle first, as PaddleClas' tools do.

    Returns:
        tuple: the number of training and of test images.

    Raises:
        OSError: if the directory cannot be written.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255.0 / 16.0)).astype("uint8")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    seen = [0] * 10
    for number, (image, label) in enumerate(zip(pixels, data.target, strict=True)):
        name = f"{label}/{number:04d}.bmp"
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(image).convert("RGB").save(path)
        part = "test" if seen[label] % _TEST_EVERY == _TEST_EVERY - 1 else "train"
        lists[part].append(f"{name} {label}\n")
        seen[label] += 1
    # The lists come last: where they are, the images are.
    for part, lines in lists.items():
        _write(os.path.join(directory, f"{part}_list.txt"), lines)
    _write(os.path.join(directory, "label_list.txt"), [f"{i} digit_{i}\n" for i in range(10)])
    return len(lists["train"]), len(lists["test"])


def _write(path: str, lines: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)
