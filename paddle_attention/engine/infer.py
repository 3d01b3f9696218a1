"""Images in, classes out: what prediction from a checkpoint and from an exported model share."""

import os

import numpy as np

from ..config import ConfigError, DataError, build_by_name
from ..files import read_lines, read_regular_file

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")


def list_images(path):
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
        if name.lower().endswith(_ENDINGS)
    ]
    if not found:
        raise FileNotFoundError(f"{path!r} is not an image and holds none ({', '.join(_ENDINGS)})")
    return sorted(found)


def read_batches(paths, transform, batch_size, skip=None):
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
        names, images = [], []
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


def _read_image(name, transform, others):
    try:
        image = np.asarray(transform(read_regular_file(name)))
        if image.ndim != 3:
            raise ValueError(f"the operators make an array of shape {list(image.shape)} of it")
    except Exception as error:
        raise DataError(f"image {name}: {error or type(error).__name__}") from error
    if others and image.shape != others[0].shape:
        raise DataError(
            f"image {name}: is {list(image.shape)} where the images before it are {list(others[0].shape)}; "
            "add ResizeImage and CropImage to Infer.transforms, or set Infer.batch_size: 1"
        )
    return image


class TopkPostProcess:
    """Probabilities to the ``topk`` best classes of every image.

    Args:
        topk (int): how many.
        class_id_map_file (str, optional): text file of ``id name`` lines.
        delimiter (str): between id and name.
    """

    def __init__(self, topk=1, class_id_map_file=None, delimiter=" "):
        if not isinstance(topk, int) or topk < 1:
            raise ValueError(f"topk must be a positive integer, but got {topk!r}")
        self.topk = topk
        self.names = {}
        if class_id_map_file is not None:
            if not os.path.isfile(class_id_map_file):
                raise ValueError(f"class_id_map_file {class_id_map_file!r} does not exist")
            for line_number, line in read_lines(class_id_map_file):
                number, _, name = line.partition(delimiter)
                if not number.strip().isdecimal():
                    raise ValueError(
                        f"{class_id_map_file}:{line_number}: expected 'id{delimiter}name', but got {line!r}"
                    )
                self.names[int(number)] = name

    @classmethod
    def from_config(cls, config):
        """Build from the YAML's ``Infer.PostProcess``; raises ConfigError."""
        options = config["Infer"]["PostProcess"]
        if not isinstance(options, dict):
            raise ConfigError(f"Infer.PostProcess: must be a dict, but got {options!r}")
        options = dict(options)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"Infer.PostProcess.name: must be 'Topk', but got {name!r}")
        return build_by_name("Infer.PostProcess", {"Topk": cls}, name, options)

    def __call__(self, probabilities, paths):
        """A list of dicts of ``class_ids``, ``scores``, ``file_name`` and ``label_names``."""
        results = []
        for row, path in zip(probabilities, paths, strict=True):
            if not np.isfinite(row).all():
                raise DataError(
                    f"image {path}: the network's output is not finite; the weights or the image are damaged"
                )
            best = np.argsort(row)[-self.topk :][::-1]
            result = {
                "class_ids": [int(i) for i in best],
                "scores": [round(float(row[i]), 5) for i in best],
                "file_name": path,
            }
            if self.names:
                result["label_names"] = [self.names.get(int(i), "") for i in best]
            results.append(result)
        return results
