"""Probabilities to classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ConfigError, DataError, build_by_name
from ..files import read_lines

if TYPE_CHECKING:
    pass


class TopkPostProcess:
    """Probabilities to the ``topk`` best classes of every image.

    Args:
        topk (int): how many.
        class_id_map_file (str, optional): text file of ``id name`` lines.
        delimiter (str): between id and name.
    """

    def __init__(self, topk: int = 1, class_id_map_file: str | None = None, delimiter: str = " ") -> None:
        if not isinstance(topk, int) or topk < 1:
            raise ValueError(f"topk must be a positive integer, but got {topk!r}")
        self.topk = topk
        self.names: dict[int, str] = {}
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
    def from_config(cls, config: Mapping[str, Any]) -> TopkPostProcess:
        """Build from the YAML's ``Infer.PostProcess``; raises ConfigError."""
        options = config["Infer"]["PostProcess"]
        if not isinstance(options, dict):
            raise ConfigError(f"Infer.PostProcess: must be a dict, but got {options!r}")
        options = dict(options)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"Infer.PostProcess.name: must be 'Topk', but got {name!r}")
        built: TopkPostProcess = build_by_name("Infer.PostProcess", {"Topk": cls}, name, options)
        class_num = (config.get("Arch") or {}).get("class_num")
        if built.names and isinstance(class_num, int):
            nameless = [i for i in range(class_num) if i not in built.names]
            if nameless:
                raise ConfigError(
                    f"Infer.PostProcess.class_id_map_file: {options['class_id_map_file']} names {len(built.names)} "
                    f"classes of the {class_num} that the network has (Arch.class_num); class {nameless[0]} has no name"
                )
        return built

    def __call__(self, probabilities: np.ndarray, paths: Sequence[str]) -> list[dict[str, Any]]:
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
