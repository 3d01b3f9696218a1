"""Losses and metrics since the last reset, as one ``paddle.metric.Metric``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ..config import ConfigError, DataError
from .scores import BatchMetric, Metric, SetMetric, TopkAcc, multi_hot

Collected = list[tuple[np.ndarray, np.ndarray]]  # logits and labels, batch by batch


class Meters(paddle.metric.Metric):
    """Sample-weighted averages of the losses and metrics since the last reset, and metrics of the whole set.

    ``paddle.Model`` has one set of metrics for training and evaluation;
    :attr:`mode` says which losses and metrics count.

    Args:
        losses (dict): mode to :class:`CombinedLoss` or None.
        metrics (dict): mode to the list of metrics.
    """

    def __init__(self, losses: Mapping[str, Any], metrics: dict[str, list[Metric]]) -> None:
        super().__init__()
        self.losses, self.metrics = losses, metrics
        self.mode = "train"
        self.latest: dict[str, float] = {}
        self.train_values: dict[str, Tensor] = {}
        self.reset()

    @property
    def decisive(self) -> str:
        """The name of the value that decides which model is the best."""
        return self.metrics["eval"][0].names[0]

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
        metrics = self.metrics[self.mode]
        for metric in metrics:
            if isinstance(metric, BatchMetric):
                values.update(metric(logits, label))
        if any(isinstance(metric, SetMetric) for metric in metrics):
            labels = multi_hot(label) if metrics[0].multilabel else label.flatten()
            self.collected.append((logits.astype("float32").numpy(), labels.numpy()))
        self._names = list(values)
        count = paddle.full([1], logits.shape[0], dtype="float32")
        return [count, *(v.reshape([1]).astype("float32") for v in values.values())]

    def update(self, count: np.ndarray, *values: np.ndarray) -> list[int]:
        n = int(count[0])
        self.count += n
        self.latest = dict(zip(self._names, (float(v[0]) for v in values), strict=True))
        whole = {name for metric in self.metrics[self.mode] if _counts(metric) for name in metric.names}
        for name, value in self.latest.items():
            # Of n samples a whole number is right: keep the sum exact.
            total = round(value * n) if name in whole else value * n
            self.sums[name] = self.sums.get(name, 0) + total
        return [self.count]

    def accumulate(self) -> list[int]:
        return [self.count]

    def averages(self) -> dict[str, float]:
        """``{name: average}`` in the order losses, metrics of batches."""
        return {name: total / self.count for name, total in self.sums.items()}

    def set_results(self, collected: Collected) -> dict[str, float]:
        """``{name: value}`` of the metrics that need the whole set, of what was collected of its batches."""
        results: dict[str, float] = {}
        if collected:
            logits, labels = (np.concatenate(arrays) for arrays in zip(*collected, strict=True))
            for metric in self.metrics[self.mode]:
                if isinstance(metric, SetMetric):
                    results.update(metric.results(logits, labels))
        return results

    def reset(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}
        self.latest = {}
        self.collected: Collected = []  # a new list: paddle.Model resets before the results are asked for

    def name(self) -> list[str]:
        return ["samples"]


def _counts(metric: Metric) -> bool:
    return isinstance(metric, BatchMetric) and metric.counts


def check_classes(meters: Meters, class_num: int, warn: Callable[[str], None]) -> None:
    """Say once which accuracies mean nothing because there are too few classes."""
    accuracies = [m for metrics in meters.metrics.values() for m in metrics if isinstance(m, TopkAcc)]
    for k in sorted({k for metric in accuracies for k in metric.topk}):
        if class_num is not None and k > class_num:
            warn(f"top{k} of {class_num} classes is always 1")


def refuse_set_metrics(metrics: list[Metric], path: str) -> None:
    """Raise ConfigError for metrics that need the whole data set, where only averages of batches are kept."""
    for i, metric in enumerate(metrics):
        if isinstance(metric, SetMetric):
            raise ConfigError(
                f"{path}.{i}: {type(metric).__name__} needs the whole data set; leave it to Metric.Eval"
            )


def require_metric(meters: Meters) -> None:
    """Evaluation needs a first metric, larger for better models: it decides which is the best."""
    metrics = meters.metrics["eval"]
    if not metrics:
        raise ConfigError(
            "Metric.Eval: needs a metric such as TopkAcc; the first one decides which model is the best"
        )
    if metrics[0].lower_is_better:
        raise ConfigError(
            f"Metric.Eval.0: the first metric decides which model is the best, but {metrics[0].names[0]} is "
            "smaller for better ones; put another, such as AccuracyScore, before it"
        )
