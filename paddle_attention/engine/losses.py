"""Losses under PaddleClas' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..config import ConfigError, build_by_name, single_item
from .scores import check_kind, multi_hot


class CELoss:
    """Cross entropy on logits, with label smoothing ``epsilon``.

    As in PaddleClas, soft labels (Mixup, Cutmix) without ``epsilon`` go through
    a softmax first; :class:`MixCELoss` takes them as they are.
    """

    multilabel = False

    def __init__(self, reduction: str = "mean", epsilon: float | None = None) -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', but got {reduction!r}")
        self.reduction = reduction
        self.epsilon = epsilon if epsilon is not None and 0 < epsilon < 1 else None

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        logits = logits.astype("float32")  # under AMP the logits may be half precision
        soft = label.is_floating_point()
        if self.epsilon is not None:
            if not soft:
                label = F.one_hot(label.flatten(), logits.shape[-1])
            label, soft = F.label_smooth(label, epsilon=self.epsilon), True
        elif soft:
            label = self.soften(label)
        return F.cross_entropy(logits, label, soft_label=soft, reduction=self.reduction)

    def soften(self, label: Tensor) -> Tensor:
        return F.softmax(label, axis=-1)


class MixCELoss(CELoss):
    """Cross entropy with mixed labels as they are."""

    def soften(self, label: Tensor) -> Tensor:
        return label


class MultiLabelLoss:
    """Binary cross entropy of every class, for multi-hot labels ``[N, classes]``.

    Args:
        epsilon (float, optional): label smoothing.
        size_sum (bool): sum over the classes, mean over the images; else the mean of both.
        weight_ratio (bool): weigh every class by how rare it is; the data set gives the classes' frequencies
            (``label_ratio: True``).
    """

    multilabel = True

    def __init__(
        self, epsilon: float | None = None, size_sum: bool = False, weight_ratio: bool = False
    ) -> None:
        self.epsilon = epsilon if epsilon is not None and 0 < epsilon < 1 else None
        self.size_sum, self.weight_ratio = size_sum, weight_ratio

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        target = multi_hot(label).astype("float32")
        if self.epsilon is not None:
            target = F.label_smooth(target, epsilon=self.epsilon)
        cost = F.binary_cross_entropy_with_logits(logits.astype("float32"), target, reduction="none")
        if self.weight_ratio:
            if label.ndim != 3:
                raise ConfigError(
                    "Loss: MultiLabelLoss has weight_ratio: True, which takes the classes' frequencies; "
                    "add label_ratio: True to the MultiLabelDataset"
                )
            ratio, present = label[:, 1], (target > 0.5).astype("float32")
            cost = cost * paddle.exp(present * (1 - ratio) + (1 - present) * ratio)
        return cost.sum(1).mean() if self.size_sum else cost.mean()


class MultiLabelAsymmetricLoss:
    """Asymmetric loss (arXiv:2009.14119, equations 4 to 7): negatives are focused more, and easy ones left out.

    Args:
        gamma_pos, gamma_neg (float): focusing of positive and negative labels.
        clip (float): the probability that negatives are forgiven.
        epsilon (float): the smallest probability whose logarithm is taken.
        disable_focal_loss_grad (bool): no gradients through the focusing weights.
        reduction (str): ``'sum'`` or ``'mean'``.
    """

    multilabel = True

    def __init__(
        self,
        gamma_pos: float = 1,
        gamma_neg: float = 4,
        clip: float = 0.05,
        epsilon: float = 1e-8,
        disable_focal_loss_grad: bool = True,
        reduction: str = "sum",
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', but got {reduction!r}")
        self.gamma_pos, self.gamma_neg, self.clip, self.epsilon = gamma_pos, gamma_neg, clip, epsilon
        self.disable_focal_loss_grad, self.reduction = disable_focal_loss_grad, reduction

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        probability = F.sigmoid(logits.astype("float32"))
        target = multi_hot(label).astype("float32")
        negative = (1 - probability + self.clip).clip(max=1) if self.clip else 1 - probability
        right = negative * (1 - target) + probability * target
        base = (1 - right).detach() if self.disable_focal_loss_grad else 1 - right
        weight = base.pow(self.gamma_pos * target + self.gamma_neg * (1 - target))
        loss = -paddle.log(right.clip(min=self.epsilon)) * weight
        return loss.mean() if self.reduction == "mean" else loss.sum()


LOSSES: dict[str, Callable[..., Any]] = {
    cls.__name__: cls for cls in (CELoss, MixCELoss, MultiLabelLoss, MultiLabelAsymmetricLoss)
}


class CombinedLoss:
    """The weighted sum of a YAML list of losses.

    Calling it gives a dict of every loss by name and their sum as ``'loss'``.
    """

    def __init__(self, items: Any, path: str, multilabel: bool = False) -> None:
        if not isinstance(items, list) or not items:
            raise ConfigError(f"{path}: must be a list of losses, but got {items!r}")
        self.parts = []
        for i, item in enumerate(items):
            name, arguments = single_item(f"{path}.{i}", item)
            if not isinstance(arguments, (dict, type(None))):
                raise ConfigError(f"{path}.{i}.{name}: must be a dict of arguments, but got {arguments!r}")
            arguments = dict(arguments or {})
            if "weight" not in arguments:
                raise ConfigError(f"{path}.{i}.{name}: argument 'weight' is missing")
            weight = arguments.pop("weight")
            loss = build_by_name(f"{path}.{i}", LOSSES, name, arguments)
            check_kind(f"{path}.{i}", name, loss, multilabel)
            self.parts.append((name, weight, loss))

    def check_ratio(self, part: str, dataset: dict[str, Any]) -> None:
        """Raise ConfigError where a loss weighs by frequencies that its data set, of ``part``, does not give."""
        for i, (name, _, loss) in enumerate(self.parts):
            if getattr(loss, "weight_ratio", False) and not dataset.get("label_ratio"):
                raise ConfigError(
                    f"Loss.{part}.{i}.{name}.weight_ratio: True, which takes the classes' frequencies; add label_ratio: True "
                    f"to DataLoader.{part}.dataset"
                )

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        if len(self.parts) == 1:  # as in PaddleClas, the weight of a single loss is not used
            name, _, loss = self.parts[0]
            value = loss(logits, label)
            return {name: value, "loss": value}
        values: dict[str, Tensor] = {}
        for name, weight, loss in self.parts:
            values[name] = values.get(name, 0) + loss(logits, label) * weight
        return {**values, "loss": sum(values.values())}
