"""An optimizer's state from a file: given back only where it fits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import Tensor

from ..config import short
from .steps import NonFiniteError


def load_optimizer(
    optimizer: paddle.optimizer.Optimizer, parameters: list[Tensor], state: dict[str, Any], path: str
) -> bool:
    """Give ``optimizer`` the state of the file ``path``, which must be of these parameters.

    Returns:
        bool: whether its schedule is of the optimizer's kind; else that is left as it is.

    Raises:
        ValueError: if it is of other parameters, of other shapes or of another optimizer.
    """
    tensors = {k: v for k, v in state.items() if k not in ("LR_Scheduler", "master_weights")}
    by_name = {p.name: p for p in parameters}
    for key, value in tensors.items():
        owner = next((n for n in _prefixes(key) if n in by_name), None)
        if owner is None:
            raise ValueError(f"{path} does not fit: {key} belongs to no parameter of this network")
        shape = getattr(value, "shape", None)
        if shape is None or (list(shape) != list(by_name[owner].shape) and math.prod(shape) != 1):
            raise ValueError(
                f"{path} does not fit: {key} is {short(value, 60) if shape is None else list(shape)}, "
                f"its parameter {list(by_name[owner].shape)}"
            )
        if value.dtype not in (paddle.float32, by_name[owner].dtype):
            raise ValueError(f"{path} does not fit: {key} is of type {value.dtype}")
        if not bool(paddle.isfinite(value).all()):
            raise NonFiniteError(f"{path}: {key} holds numbers that are not finite; use another checkpoint")
    schedule = state.get("LR_Scheduler")
    if (
        not isinstance(schedule, dict)
        or not {"last_epoch", "last_lr"} <= schedule.keys()
        or not _is_plain(schedule)
    ):
        raise ValueError(f"{path} does not fit: its schedule is {short(schedule, 60)}")
    kinds = {v for c in type(optimizer).__mro__ for k, v in vars(c).items() if k.endswith("_acc_str")}
    for kind in sorted(kinds):
        if not any(f"_{kind}_" in key for key in tensors):
            raise ValueError(
                f"{path} does not fit: it has no {kind!r}, which {type(optimizer).__name__} needs; "
                "it was written by another optimizer"
            )
    own = optimizer.state_dict().get("LR_Scheduler", {})
    same_kind = {k for k, v in own.items() if isinstance(v, dict)} == {
        k for k, v in schedule.items() if isinstance(v, dict)
    }
    if not same_kind:  # with a warm-up, or without
        state = {**state, "LR_Scheduler": own}
    try:
        with warnings.catch_warnings():
            # Of the state of the schedule inside a warm-up, which is restored.
            warnings.filterwarnings("ignore", message="There are some unused values in state_dict")
            optimizer.set_state_dict(state)
    except Exception as error:  # Paddle asserts, and trusts what it reads
        raise ValueError(f"{path} does not fit: {type(error).__name__}: {error}") from error
    return same_kind


def _is_plain(schedule: Any) -> bool:
    """Whether steps and rates of a schedule, and of the one inside a warm-up, are numbers."""
    numbers = [schedule.get(key, 0) for key in ("last_epoch", "last_lr")]
    inner = [value for value in schedule.values() if isinstance(value, dict)]
    return all(type(n) in (int, float) and math.isfinite(n) for n in numbers) and all(map(_is_plain, inner))


def _prefixes(key: str) -> Iterator[str]:
    """``'a_b_c'`` to ``'a_b'``, ``'a'``."""
    while "_" in key:
        key = key.rpartition("_")[0]
        yield key
