"""Losses under PaddleClas' names."""

from __future__ import annotations

from typing import Any

import paddle.nn.functional as F
from paddle import Tensor

from ..config import ConfigError, build_by_name, single_item


class CELoss:
    """Cross entropy on logits, with label smoothing ``epsilon``.

    As in PaddleClas, soft labels (Mixup, Cutmix) without ``epsilon`` go through
    a softmax first; :class:`MixCELoss` takes them as they are.
    """

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


LOSSES = {"CELoss": CELoss, "MixCELoss": MixCELoss}


class CombinedLoss:
    """The weighted sum of a YAML list of losses.

    Calling it gives a dict of every loss by name and their sum as ``'loss'``.
    """

    def __init__(self, items: Any, path: str) -> None:
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
            self.parts.append((name, weight, loss))

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        if len(self.parts) == 1:  # as in PaddleClas, the weight of a single loss is not used
            name, _, loss = self.parts[0]
            value = loss(logits, label)
            return {name: value, "loss": value}
        values: dict[str, Tensor] = {}
        for name, weight, loss in self.parts:
            values[name] = values.get(name, 0) + loss(logits, label) * weight
        return {**values, "loss": sum(values.values())}
