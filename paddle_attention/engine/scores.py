"""Metrics under PaddleClas' names: what is computed from a batch, and what needs a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..config import ConfigError, build_by_name, single_item

_EPSILON = 1e-20  # of ATTRMetric, against divisions by zero
_THRESHOLDS = 10_000  # that TprAtFpr tries


class BatchMetric:
    """Values of one batch, averaged over the images.

    Attributes:
        multilabel (bool): whether the labels are multi-hot ``[N, classes]``.
        names (list of str): of the values.
        lower_is_better (bool): of the first value.
        counts (bool): whether value times images is a whole number.
    """

    multilabel = lower_is_better = counts = False
    names: list[str]

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


class SetMetric:
    """Values of a whole data set; the logits and labels of its batches are given to :meth:`results` at once.

    Attributes:
        multilabel, names: as of :class:`BatchMetric`.
    """

    multilabel = lower_is_better = False
    names: list[str]

    def results(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The values of ``logits`` ``[N, classes]`` and ``labels`` ``[N]`` or ``[N, classes]``."""
        raise NotImplementedError


class TopkAcc(BatchMetric):
    """The share of images whose label is among the ``topk`` best classes; 1 with fewer classes."""

    counts = True

    def __init__(self, topk: int | Sequence[int] = (1, 5)) -> None:
        self.topk = [topk] if isinstance(topk, int) else list(topk)
        if not self.topk or any(not isinstance(k, int) or isinstance(k, bool) or k < 1 for k in self.topk):
            raise ValueError(f"topk must be positive integers, but got {topk!r}")
        self.names = [f"top{k}" for k in self.topk]

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        logits, label = logits.astype("float32"), label.reshape([-1, 1])
        return {
            f"top{k}": paddle.metric.accuracy(logits, label, k=k)
            if k <= logits.shape[-1]
            else paddle.ones([1])
            for k in self.topk
        }


def multi_hot(label: Tensor) -> Tensor:
    """The labels themselves where ``label_ratio`` has put the classes' frequencies beside them."""
    return label[:, 0] if label.ndim == 3 else label


def _decided(logits: Tensor) -> Tensor:
    """Classes whose probability is above one half."""
    return F.sigmoid(logits.astype("float32")) > 0.5


class HammingDistance(BatchMetric):
    """The share of wrong decisions, of all classes of all images, at a probability of 0.5."""

    multilabel = lower_is_better = True
    names = ["HammingDistance"]

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        wrong = _decided(logits) != (multi_hot(label) > 0.5)
        return {"HammingDistance": wrong.astype("float32").mean()}


class AccuracyScore(BatchMetric):
    """The share of right decisions at a probability of 0.5.

    Args:
        base (str): ``'label'`` for every class of every image, ``'sample'`` for images with all classes right.
    """

    multilabel = True
    names = ["AccuracyScore"]

    def __init__(self, base: str = "label") -> None:
        if base not in ("label", "sample"):
            raise ValueError(f"base must be 'label' or 'sample', but got {base!r}")
        self.base = base

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        right = _decided(logits) == (multi_hot(label) > 0.5)
        if self.base == "sample":
            right = right.all(axis=-1)
        return {"AccuracyScore": right.astype("float32").mean()}


class TprAtFpr(SetMetric):
    """The largest true-positive rate of class 1 at a false-positive rate of at most ``max_fpr``.

    The thresholds tried are 0, 0.0001, ... 0.9999 of the softmax's second output, as in PaddleClas.
    """

    names = ["tpr"]

    def __init__(self, max_fpr: float = 1 / 1000.0) -> None:
        if not 0 <= max_fpr <= 1:
            raise ValueError(f"max_fpr must be from 0 to 1, but got {max_fpr!r}")
        self.max_fpr = max_fpr

    def results(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        if logits.shape[-1] < 2:
            raise ConfigError(
                f"Metric.Eval.TprAtFpr: needs two classes, but the network has {logits.shape[-1]}"
            )
        scores = F.softmax(paddle.to_tensor(logits), axis=-1).numpy()[:, 1]
        thresholds = np.arange(_THRESHOLDS) / _THRESHOLDS
        positive, negative = (self._above(scores[labels == 0] if zero else scores[labels != 0], thresholds)
                              for zero in (False, True))  # fmt: skip
        allowed = positive[negative <= self.max_fpr]
        return {"tpr": float(allowed.max(initial=0.0))}

    def _above(self, scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """The share of the scores above each threshold; 0 of none."""
        ordered = np.sort(scores.astype("float64"))
        above = len(ordered) - np.searchsorted(ordered, thresholds, side="right")
        return np.asarray(above / max(len(ordered), 1))


class ATTRMetric(SetMetric):
    """The figures of attribute recognition; the first, ``ma``, is the mean of both recalls over the attributes.

    As in PaddleClas the threshold is applied to the network's outputs as they are, before the sigmoid, and is
    0.5 there; and ``label_f1`` takes the mean recall of all attributes.
    """

    multilabel = True
    names = [
        "ma",
        "label_f1",
        "label_pos_recall",
        "label_neg_recall",
        "instance_f1",
        "instance_acc",
        "instance_prec",
        "instance_recall",
    ]

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def results(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        predicted, real = logits > self.threshold, labels == 1
        hits = predicted & real
        recall = hits.sum(0) / (real.sum(0) + _EPSILON)
        negative_recall = (~predicted & ~real).sum(0) / ((~real).sum(0) + _EPSILON)
        precision = hits.sum(0) / (predicted.sum(0) + _EPSILON)
        label_f1 = np.mean(2 * precision * recall.mean() / (precision + recall.mean() + _EPSILON))
        instance = hits.sum(1)
        instance_acc = np.mean(instance / ((predicted | real).sum(1) + _EPSILON))
        instance_precision = np.mean(instance / (predicted.sum(1) + _EPSILON))
        instance_recall = np.mean(instance / (real.sum(1) + _EPSILON))
        instance_f1 = (
            2 * instance_precision * instance_recall / (instance_precision + instance_recall + _EPSILON)
        )
        values = [
            np.mean((recall + negative_recall) / 2),
            label_f1,
            recall.mean(),
            negative_recall.mean(),
            instance_f1,
            instance_acc,
            instance_precision,
            instance_recall,
        ]
        return {name: float(value) for name, value in zip(self.names, values, strict=True)}


class MultiLabelMAP(SetMetric):
    """The mean over the classes that occur of their average precision.

    Args:
        map_type (str): ``'integral'`` for the area below precision over recall, ``'11point'`` for the mean of
            the best precisions at recalls of at least 0, 0.1, ... 1.
    """

    multilabel = True
    names = ["MultiLabelMAP"]

    def __init__(self, map_type: str = "integral") -> None:
        if map_type not in ("integral", "11point"):
            raise ValueError(f"map_type must be 'integral' or '11point', but got {map_type!r}")
        self.map_type = map_type

    def results(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        occurring = [c for c in range(labels.shape[1]) if (labels[:, c] == 1).any()]
        values = [self._average_precision(logits[:, c], labels[:, c] == 1) for c in occurring]
        return {"MultiLabelMAP": float(np.mean(values)) if values else 0.0}

    def _average_precision(self, scores: np.ndarray, real: np.ndarray) -> float:
        hits = np.cumsum(real[np.argsort(-scores, kind="stable")])
        precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
        if self.map_type == "11point":
            best = [precision[recall >= j / 10.0].max(initial=0.0) for j in range(11)]
            return float(np.mean(best))
        return float(np.sum(precision * np.diff(recall, prepend=0.0)))


Metric = BatchMetric | SetMetric
METRICS: dict[str, Callable[..., Metric]] = {
    cls.__name__: cls
    for cls in (TopkAcc, TprAtFpr, AccuracyScore, HammingDistance, ATTRMetric, MultiLabelMAP)
}


def build_metrics(items: Any, path: str, multilabel: bool = False) -> list[Metric]:
    """The metrics of a YAML list; [] for none.

    Args:
        items (list or None): names, or dicts of one name and its arguments.
        path (str): key path for messages.
        multilabel (bool): whether the labels are multi-hot.

    Raises:
        ConfigError: naming the key.
    """
    metrics: list[Metric] = []
    for i, item in enumerate(items or []):
        name, arguments = single_item(f"{path}.{i}", item)
        metric: Metric = build_by_name(f"{path}.{i}", METRICS, name, arguments)
        check_kind(f"{path}.{i}", name, metric, multilabel)
        again = [n for other in metrics for n in other.names if n in metric.names]
        if again:
            raise ConfigError(
                f"{path}.{i}: there is a {again[0]} already; the log and the best model know only one"
            )
        metrics.append(metric)
    return metrics


def check_kind(path: str, name: str, part: Any, multilabel: bool) -> None:
    """Raise ConfigError where a part is of multi-label recipes and the recipe is not, or the other way round."""
    if part.multilabel and not multilabel:
        raise ConfigError(f"{path}: {name} takes several classes an image; set Global.use_multilabel: True")
    if multilabel and not part.multilabel:
        raise ConfigError(
            f"{path}: {name} takes one class an image, but Global.use_multilabel is True; use one of the "
            f"multi-label ones or set it to False"
        )
