"""Optimizers under PaddleClas' names, from ``paddle.optimizer``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.optimizer.lr import LRScheduler

from ..config import ConfigError, build_by_name, unsupported
from .schedules import SCHEDULES

logger = logging.getLogger("ppcls")


def _without_decay(network: nn.Layer, names: str | None, one_dim: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Split the parameters into those with and those without weight decay."""
    words = names.split() if names else []
    decay: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in network.named_parameters():
        free = any(word in name for word in words) or (one_dim and len(parameter.shape) == 1)
        (plain if free else decay).append(parameter)
    return decay, plain


def _grouped(network: nn.Layer, weight_decay: Any, names: str | None, one_dim: bool) -> list[Any]:
    decay, plain = _without_decay(network, names, one_dim)
    if not plain:
        return decay
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def _sgd(
    network: nn.Layer, lr: Any, weight_decay: Any = None, grad_clip: Any = None, multi_precision: bool = False
) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.SGD(
        lr, network.parameters(), weight_decay, grad_clip, multi_precision=multi_precision
    )


def _momentum(
    network: nn.Layer,
    lr: Any,
    momentum: float = 0.9,
    weight_decay: Any = None,
    grad_clip: Any = None,
    use_nesterov: bool = False,
    multi_precision: bool = True,
    no_weight_decay_name: str | None = None,
    one_dim_param_no_weight_decay: bool = False,
    fused: bool = True,
) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.Momentum(
        lr,
        momentum,
        _grouped(network, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay),
        use_nesterov,
        weight_decay,
        grad_clip,
        multi_precision=multi_precision,
        use_multi_tensor=fused,
    )


def _rmsprop(
    network: nn.Layer,
    lr: Any,
    momentum: float = 0.0,
    rho: float = 0.95,
    epsilon: float = 1e-6,
    weight_decay: Any = None,
    grad_clip: Any = None,
    no_weight_decay_name: str | None = None,
    one_dim_param_no_weight_decay: bool = False,
) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.RMSProp(
        lr,
        rho,
        epsilon,
        momentum,
        parameters=_grouped(network, weight_decay, no_weight_decay_name, one_dim_param_no_weight_decay),
        weight_decay=weight_decay,
        grad_clip=grad_clip,
    )


def _adam(
    network: nn.Layer,
    lr: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Any = None,
    grad_clip: Any = None,
    multi_precision: bool = False,
) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.Adam(
        lr,
        beta1,
        beta2,
        epsilon,
        network.parameters(),
        weight_decay,
        grad_clip,
        multi_precision=multi_precision,
    )


def _adamw(
    network: nn.Layer,
    lr: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    grad_clip: Any = None,
    multi_precision: bool = False,
    no_weight_decay_name: str | None = None,
    one_dim_param_no_weight_decay: bool = False,
) -> paddle.optimizer.Optimizer:
    decay, _ = _without_decay(network, no_weight_decay_name, one_dim_param_no_weight_decay)
    decayed = {parameter.name for parameter in decay}
    return paddle.optimizer.AdamW(
        lr,
        beta1,
        beta2,
        epsilon,
        network.parameters(),
        weight_decay,
        apply_decay_param_fun=lambda name: name in decayed,
        grad_clip=grad_clip,
        multi_precision=multi_precision,
    )


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": _sgd,
    "Momentum": _momentum,
    "RMSProp": _rmsprop,
    "Adam": _adam,
    "AdamW": _adamw,
}


def build_optimizer(
    config: dict[str, Any], network: nn.Layer, epochs: int, steps_per_epoch: int
) -> tuple[paddle.optimizer.Optimizer, LRScheduler]:
    """The optimizer of the YAML's ``Optimizer`` section and its schedule.

    Returns:
        tuple: ``(paddle.optimizer.Optimizer, LRScheduler)``; the schedule's
        ``by_epoch`` tells when to step it.
    """
    section = config["Optimizer"]
    if not isinstance(section, dict):
        raise unsupported("Optimizer", "a list of optimizers")
    options = dict(section)
    name = options.pop("name", None)
    lr = options.pop("lr", None)
    if not isinstance(lr, dict) or "name" not in lr:
        raise ConfigError(f"Optimizer.lr: must be a dict with a 'name', but got {lr!r}")
    lr = dict(lr)
    schedule = build_by_name(
        "Optimizer.lr", SCHEDULES, lr.pop("name"), lr, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    regularizer = options.pop("regularizer", None)
    if regularizer is not None:
        kinds = {"L1": _l1, "L2": _l2}
        regularizer = dict(regularizer)
        if options.get("weight_decay") is not None:
            raise ConfigError("Optimizer: give one of regularizer and weight_decay, not both")
        decay = build_by_name("Optimizer.regularizer", kinds, regularizer.pop("name", None), regularizer)
    else:
        decay = options.pop("weight_decay", None)
    if name == "AdamW" and options.pop("clip_grad", None) is not None:
        logger.warning(
            "Optimizer.clip_grad has no effect: PaddleClas' AdamW ignores it, and so does this engine; to clip "
            "gradients, write clip_norm"
        )
    clip = options.pop("clip_norm", None)
    fixed = {
        "network": network,
        "lr": schedule,
        "grad_clip": None if clip is None else paddle.nn.ClipGradByNorm(clip),
        # Paddle's fused update takes the same parameters in every step.
        "fused": not (config.get("Global") or {}).get("freeze_backbone_epochs"),
    }
    if decay is not None:
        options["weight_decay"] = decay
    return build_by_name("Optimizer", OPTIMIZERS, name, options, **fixed), schedule


def _l1(coeff: float = 0.0) -> Any:
    return paddle.regularizer.L1Decay(coeff)


def _l2(coeff: float = 0.0) -> Any:
    return paddle.regularizer.L2Decay(coeff)
