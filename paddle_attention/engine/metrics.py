"""Running averages of losses and accuracies, as one ``paddle.metric.Metric``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ..config import ConfigError, DataError, build_by_name, single_item


def _topk_acc(topk: int | Sequence[int] = (1, 5)) -> list[int]:
    values = [topk] if isinstance(topk, int) else list(topk)
    if not values or any(not isinstance(k, int) or k < 1 for k in values):
        raise ValueError(f"topk must be positive integers, but got {topk!r}")
    return values


def parse_topk(items: Any, path: str) -> list[int]:
    """The ``k`` values of a YAML list of metrics; [] for none."""
    values = []
    for i, item in enumerate(items or []):
        name, arguments = single_item(f"{path}.{i}", item)
        values += build_by_name(f"{path}.{i}", {"TopkAcc": _topk_acc}, name, arguments)
    return values


class Meters(paddle.metric.Metric):
    """Sample-weighted averages of the losses and top-k accuracies since the last reset.

    ``paddle.Model`` has one set of metrics for training and evaluation;
    :attr:`mode` says which losses and ``k`` count.

    Args:
        losses (dict): mode to :class:`CombinedLoss` or None.
        topk (dict): mode to the list of ``k``; an accuracy with more ``k`` than classes is 1.
    """

    def __init__(self, losses: Mapping[str, Any], topk: dict[str, list[int]]) -> None:
        super().__init__()
        self.losses, self.topk = losses, topk
        self.mode = "train"
        self.latest: dict[str, float] = {}
        self.train_values: dict[str, Tensor] = {}
        self.reset()

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss function for ``paddle.Model``; keeps the parts for :meth:`compute`."""
        if self.mode != "train":
            return paddle.zeros([1])  # evaluation losses are computed on the gathered batch
        values = self.losses["train"](logits, label)
        self.train_values = {k: v.detach() for k, v in values.items()}
        return values["loss"]

    def compute(self, logits: Tensor, label: Tensor) -> list[Tensor]:
        if self.mode == "train":
            values = dict(self.train_values)
        else:
            if not bool(paddle.isfinite(logits).all()):
                raise DataError(
                    "evaluation: the network's output is not finite: the weights or the images are damaged"
                )
            loss = self.losses["eval"]
            values = {} if loss is None else dict(loss(logits, label))
        class_num = logits.shape[-1]
        for k in self.topk[self.mode]:
            if k > class_num:
                values[f"top{k}"] = paddle.ones([1])
            else:
                values[f"top{k}"] = paddle.metric.accuracy(
                    logits.astype("float32"), label.reshape([-1, 1]), k=k
                )
        self._names = list(values)
        count = paddle.full([1], logits.shape[0], dtype="float32")
        return [count, *(v.reshape([1]).astype("float32") for v in values.values())]

    def update(self, count: np.ndarray, *values: np.ndarray) -> list[int]:
        n = int(count[0])
        self.count += n
        self.latest = dict(zip(self._names, (float(v[0]) for v in values), strict=True))
        for name, value in self.latest.items():
            # Of n samples a whole number is right: keep the sum exact.
            total = round(value * n) if name.startswith("top") else value * n
            self.sums[name] = self.sums.get(name, 0) + total
        return [self.count]

    def accumulate(self) -> list[int]:
        return [self.count]

    def averages(self) -> dict[str, float]:
        """``{name: average}`` in the order losses, accuracies."""
        return {name: total / self.count for name, total in self.sums.items()}

    def reset(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}
        self.latest = {}

    def name(self) -> list[str]:
        return ["samples"]


def check_classes(meters: Meters, class_num: int, warn: Callable[[str], None]) -> None:
    """Say once which accuracies mean nothing because there are too few classes."""
    for k in sorted({k for values in meters.topk.values() for k in values}):
        if class_num is not None and k > class_num:
            warn(f"top{k} of {class_num} classes is always 1")


def require_metric(meters: Meters) -> None:
    """Evaluation needs a first accuracy: it decides which model is the best."""
    if not meters.topk["eval"]:
        raise ConfigError("Metric.Eval: needs a TopkAcc; the first one decides which model is the best")
