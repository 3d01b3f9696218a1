"""Images in, classes out: what prediction from a checkpoint and from an exported model share."""

import os

import numpy as np

from .config import ConfigError, build_by_name

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


def read_batches(paths, transform, batch_size):
    """Yield ``(paths, float32 array [n, 3, H, W])``; a bad image is an error that names it."""
    for start in range(0, len(paths), batch_size):
        names = paths[start : start + batch_size]
        images = []
        for name in names:
            try:
                with open(name, "rb") as file:
                    images.append(transform(file.read()))
            except Exception as error:
                raise ValueError(f"image {name}: {error}") from error
        yield names, np.stack(images)


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
            with open(class_id_map_file, encoding="utf-8") as file:
                for line in file:
                    number, _, name = line.rstrip("\n").partition(delimiter)
                    if number.strip():
                        self.names[int(number)] = name

    @classmethod
    def from_config(cls, config):
        """Build from the YAML's ``Infer.PostProcess``; raises ConfigError."""
        options = dict(config["Infer"]["PostProcess"])
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"Infer.PostProcess.name: must be 'Topk', but got {name!r}")
        return build_by_name("Infer.PostProcess", {"Topk": cls}, name, options)

    def __call__(self, probabilities, paths):
        """A list of dicts of ``class_ids``, ``scores``, ``file_name`` and ``label_names``."""
        results = []
        for row, path in zip(probabilities, paths, strict=True):
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
