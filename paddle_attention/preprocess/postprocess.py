"""Outputs to probabilities, and probabilities to classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import ConfigError, DataError, build_by_name
from ..files import read_lines


def probabilities(logits: np.ndarray, multilabel: bool = False) -> np.ndarray:
    """Softmax of ``[N, classes]``, or with several classes an image the sigmoid of each, in float64."""
    logits = logits.astype("float64")
    with np.errstate(invalid="ignore", over="ignore"):  # the post-processing names the image
        if multilabel:
            return 1 / (1 + np.exp(-logits))
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)


_CLASSES = 1_000_000  # at most


class _Classes:
    """What makes results of probabilities; subclasses have :meth:`choose`.

    Attributes:
        multilabel (bool): whether the probabilities are each class' own.
        names (dict): class to its name.
        class_num (int or None): of the network, where the YAML says so.
    """

    multilabel = False
    names: dict[int, str]
    class_num: int | None = None

    def choose(self, row: np.ndarray) -> Sequence[tuple[int, float]]:
        """Class and score of the classes that an image with the probabilities ``row`` has."""
        raise NotImplementedError

    def __call__(self, probabilities: np.ndarray, paths: Sequence[str]) -> list[dict[str, Any]]:
        """A list of dicts of ``class_ids``, ``scores``, ``file_name`` and, where known, ``label_names``."""
        self._check(np.shape(probabilities)[-1])
        results = []
        for row, path in zip(probabilities, paths, strict=True):
            if not np.isfinite(row).all():
                raise DataError(
                    f"image {path}: the network's output is not finite; the weights or the image are damaged"
                )
            chosen = self.choose(row)
            result: dict[str, Any] = {
                "class_ids": [int(i) for i, _ in chosen],
                "scores": [round(float(score), 5) for _, score in chosen],
                "file_name": path,
            }
            if self.names:
                result["label_names"] = [self.names.get(int(i), "") for i, _ in chosen]
            results.append(result)
        return results

    def _check(self, outputs: int) -> None:
        """Raise ConfigError where the network has another number of outputs than the YAML says."""
        if self.class_num is not None and outputs != self.class_num:
            raise ConfigError(
                f"Arch.class_num: {self.class_num}, but the network has {outputs} outputs; the YAML is of another network"
            )
        nameless = [i for i in range(outputs) if i not in self.names] if self.names else []
        if nameless:
            raise ConfigError(
                f"Infer.PostProcess: names {len(self.names)} classes, but the network has {outputs} outputs; class "
                f"{nameless[0]} has no name"
            )


def _read_names(class_id_map_file: str | None, delimiter: str) -> dict[int, str]:
    """Class to name, of a text file of ``id name`` lines."""
    names: dict[int, str] = {}
    if class_id_map_file is None:
        return names
    if not os.path.isfile(class_id_map_file):
        raise ValueError(f"class_id_map_file {class_id_map_file!r} does not exist")
    for line_number, line in read_lines(class_id_map_file):
        number, _, name = line.partition(delimiter)
        if not number.strip().isdecimal():
            raise ValueError(
                f"{class_id_map_file}:{line_number}: expected 'id{delimiter}name', but got {line!r}"
            )
        if int(number) in names:
            raise ValueError(f"{class_id_map_file}:{line_number}: class {int(number)} has a name already")
        if int(number) > _CLASSES:
            raise ValueError(f"{class_id_map_file}:{line_number}: there are no {int(number)} classes")
        names[int(number)] = name
    return names


def _check_probability(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, but got {value!r}")


class TopkPostProcess(_Classes):
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
        self.names = _read_names(class_id_map_file, delimiter)

    def choose(self, row: np.ndarray) -> list[tuple[int, float]]:
        return [(int(i), row[i]) for i in np.argsort(row)[-self.topk :][::-1]]


class ThreshOutput(_Classes):
    """Class 1 of two where its probability is at least ``threshold``, else class 0.

    Args:
        threshold (float): from 0 to 1.
        label_0, label_1 (str): names of the classes.
    """

    def __init__(self, threshold: float, label_0: str = "0", label_1: str = "1") -> None:
        _check_probability("threshold", threshold)
        self.threshold, self.names = threshold, {0: str(label_0), 1: str(label_1)}

    def choose(self, row: np.ndarray) -> list[tuple[int, float]]:
        if len(row) < 2:
            raise ConfigError(
                f"Infer.PostProcess: ThreshOutput needs two classes, but the network has {len(row)}"
            )
        score = float(row[1])
        return [(1, score)] if score >= self.threshold else [(0, 1 - score)]


class MultiLabelThreshOutput(_Classes):
    """All classes whose own probability is at least ``threshold``.

    Args:
        threshold (float): from 0 to 1.
        class_id_map_file (str, optional): text file of ``id name`` lines.
        delimiter (str): between id and name.
    """

    multilabel = True

    def __init__(
        self, threshold: float = 0.5, class_id_map_file: str | None = None, delimiter: str = " "
    ) -> None:
        _check_probability("threshold", threshold)
        self.threshold, self.names = threshold, _read_names(class_id_map_file, delimiter)

    def choose(self, row: np.ndarray) -> list[tuple[int, float]]:
        return [(int(i), row[i]) for i in np.flatnonzero(row >= self.threshold)]


POSTPROCESSES: dict[str, Callable[..., _Classes]] = {
    "Topk": TopkPostProcess,
    "ThreshOutput": ThreshOutput,
    "MultiLabelThreshOutput": MultiLabelThreshOutput,
}


def build_postprocess(config: Mapping[str, Any]) -> _Classes:
    """What the YAML's ``Infer.PostProcess`` says; raises ConfigError."""
    options = config["Infer"]["PostProcess"]
    if not isinstance(options, dict):
        raise ConfigError(f"Infer.PostProcess: must be a dict, but got {options!r}")
    options = dict(options)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"Infer.PostProcess.name: must be such as 'Topk', but got {name!r}")
    built: _Classes = build_by_name("Infer.PostProcess", POSTPROCESSES, name, options)
    multilabel = bool((config.get("Global") or {}).get("use_multilabel"))
    if built.multilabel != multilabel:
        raise ConfigError(
            f"Infer.PostProcess.name: {name} goes with Global.use_multilabel: {built.multilabel}, "
            f"but it is {multilabel}"
        )
    class_num = (config.get("Arch") or {}).get("class_num")
    if isinstance(class_num, int) and not isinstance(class_num, bool):
        built.class_num = class_num
    if built.names and isinstance(class_num, int):
        nameless = [i for i in range(class_num) if i not in built.names]
        if nameless:
            raise ConfigError(
                f"Infer.PostProcess.{_names_from(options)} names {len(built.names)} "
                f"classes of the {class_num} that the network has (Arch.class_num); class {nameless[0]} has no name"
            )
    return built


def _names_from(options: Mapping[str, Any]) -> str:
    path = options.get("class_id_map_file")
    return f"class_id_map_file: {path}" if path else "label_0 and label_1:"
