"""Operators of whole batches: Mixup and Cutmix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..config import ConfigError, build_by_name, single_item
from ._arguments import as_list
from .generators import numpy_random, random


class MixupOperator:
    """Mix every image and label with another of the batch, arXiv 1710.09412."""

    def __init__(self, class_num: int | None, alpha: float = 1.0) -> None:
        self.class_num, self.alpha = _class_num(class_num), _positive("alpha", alpha)

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share, other = numpy_random.beta(self.alpha, self.alpha), numpy_random.permutation(len(images))
        images = (share * images + (1 - share) * images[other]).astype(images.dtype)
        return images, _mix_labels(labels, labels[other], share, self.class_num)


class CutmixOperator:
    """Paste a rectangle of another image into every image of the batch, arXiv 1905.04899."""

    def __init__(self, class_num: int | None, alpha: float = 0.2) -> None:
        self.class_num, self.alpha = _class_num(class_num), _positive("alpha", alpha)

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share, other = numpy_random.beta(self.alpha, self.alpha), numpy_random.permutation(len(images))
        height, width = images.shape[2:]
        cut = math.sqrt(1.0 - share)
        y, x = numpy_random.randint(height), numpy_random.randint(width)
        half_h, half_w = int(height * cut) // 2, int(width * cut) // 2
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        left, right = max(x - half_w, 0), min(x + half_w, width)
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = images[other][:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, _mix_labels(labels, labels[other], share, self.class_num)


class OpSampler:
    """Apply one of several batch operators to a batch, each with its ``prob``, or none."""

    def __init__(self, class_num: int | None, **operators: Any) -> None:
        self.operators, self.weights = [], []
        for name, arguments in operators.items():
            arguments = dict(arguments or {})
            if "prob" not in arguments:
                raise ValueError(f"{name}: argument 'prob' is missing")
            self.weights.append(arguments.pop("prob"))
            table = {k: v for k, v in BATCH_OPERATORS.items() if v is not OpSampler}
            self.operators.append(build_by_name("OpSampler", table, name, arguments, class_num=class_num))
        if sum(self.weights) > 1 + 1e-9:
            raise ValueError(f"the probabilities sum to {sum(self.weights)}, more than 1")
        self.weights.append(max(0.0, 1 - sum(self.weights)))
        self.operators.append(None)

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        operator = random.choices(self.operators, weights=self.weights)[0]
        if operator is None:
            return images, labels
        return operator(images, labels)


def _class_num(value: Any) -> int:
    if not value:
        raise ValueError("needs Arch.class_num")
    return value


def _positive(name: str, value: Any) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, but got {value!r}")
    return value


def _mix_labels(labels: np.ndarray, others: np.ndarray, share: float, class_num: int) -> np.ndarray:
    eye = np.eye(class_num, dtype="float32")
    return (eye[labels] * share + eye[others] * (1 - share)).astype("float32")


BATCH_OPERATORS = {cls.__name__: cls for cls in (MixupOperator, CutmixOperator, OpSampler)}


def build_batch_transforms(items: Any, path: str, class_num: int | None) -> list[OpSampler]:
    """A list of functions of ``(images, labels)`` from a YAML list of batch operators."""
    operators = []
    for i, item in enumerate(as_list(items, path)):
        name, arguments = single_item(f"{path}.{i}", item)
        if name == "OpSampler":
            try:
                operators.append(OpSampler(class_num, **(arguments or {})))
            except ConfigError as error:
                raise ConfigError(f"{path}.{i}.{error}") from error
            except (TypeError, ValueError, ArithmeticError) as error:
                raise ConfigError(f"{path}.{i}.OpSampler: {error}") from error
        else:
            operators.append(
                build_by_name(f"{path}.{i}", BATCH_OPERATORS, name, arguments, class_num=class_num)
            )
    return operators
