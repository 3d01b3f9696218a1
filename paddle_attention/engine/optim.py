"""Learning-rate schedules and optimizers under PaddleClas' names, from ``paddle.optimizer``."""

import functools
import inspect

import paddle
from paddle.optimizer import lr as lr_module

from ..config import ConfigError, build_by_name, unsupported


class _Constant(lr_module.LRScheduler):
    def get_lr(self):
        return self.base_lr


class _Schedule:
    """Lengths in steps (or in epochs, with ``by_epoch``) and the common warm-up."""

    def __init__(self, epochs, steps_per_epoch, warmup_epoch=0, warmup_start_lr=0.0, by_epoch=False):
        self.epochs = epochs
        self.unit = 1 if by_epoch else steps_per_epoch
        warmup_epoch = min(warmup_epoch, epochs)
        self.warmup = round(warmup_epoch * self.unit)
        self.main = round((epochs - warmup_epoch) * self.unit)
        self.warmup_start_lr, self.by_epoch = warmup_start_lr, by_epoch

    def decay(self, peak, kind, *arguments):
        """``kind`` from ``peak`` over all that follows the warm-up; constant where nothing follows."""
        if self.main <= 0:
            return self.finish(_Constant(peak), peak)
        return self.finish(kind(peak, self.main, *arguments), peak)

    def finish(self, schedule, peak):
        if self.warmup > 0:
            schedule = lr_module.LinearWarmup(schedule, self.warmup, self.warmup_start_lr, peak)
        schedule.by_epoch = self.by_epoch
        return schedule


def _warmed_up(function):
    """``function(plan, ...)`` as a schedule that also takes the lengths and what all schedules take."""
    own = list(inspect.signature(function).parameters.values())[1:]
    common = list(inspect.signature(_Schedule).parameters.values())

    @functools.wraps(function)
    def build(**options):
        plan = _Schedule(**{p.name: options.pop(p.name) for p in common if p.name in options})
        return function(plan, **options)

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*common[:2], *own, *common[2:])]
    build.__signature__ = inspect.Signature(parameters)  # which build_by_name reads
    return build


@_warmed_up
def _const_lr(plan, learning_rate):
    return plan.finish(_Constant(learning_rate), learning_rate)


@_warmed_up
def _cosine(plan, learning_rate, eta_min=0.0):
    return plan.decay(learning_rate, lr_module.CosineAnnealingDecay, eta_min)


@_warmed_up
def _linear(plan, learning_rate, end_lr=0.0, power=1.0, cycle=False):
    return plan.decay(learning_rate, lr_module.PolynomialDecay, end_lr, power, cycle)


@_warmed_up
def _step(plan, learning_rate, step_size, gamma=0.1):
    size = int(step_size * plan.unit)
    return plan.finish(lr_module.StepDecay(learning_rate, size, gamma), learning_rate)


@_warmed_up
def _piecewise(plan, decay_epochs=None, values=None, learning_rate=None):
    if learning_rate:  # as in PaddleClas, it replaces the lists: a tenth every 30 epochs
        decay_epochs = list(range(30, plan.epochs, 30)) or [plan.epochs]
        count = 2 if decay_epochs == [plan.epochs] else len(decay_epochs) + 1
        first = [learning_rate] * 2
        values = first if decay_epochs == [plan.epochs] else [learning_rate * 0.1**i for i in range(count)]
    if not decay_epochs or not values or len(values) != len(decay_epochs) + 1:
        raise ValueError(f"needs one value more than decay_epochs, but got {values!r} and {decay_epochs!r}")
    boundaries = [e * plan.unit for e in decay_epochs]
    return plan.finish(lr_module.PiecewiseDecay(boundaries, values), values[0])


SCHEDULES = {
    "ConstLR": _const_lr,
    "Constant": _const_lr,
    "Cosine": _cosine,
    "Linear": _linear,
    "Piecewise": _piecewise,
    "Step": _step,
}


def _without_decay(network, names, one_dim):
    """Split the parameters into those with and those without weight decay."""
    words = names.split() if names else []
    decay, plain = [], []
    for name, parameter in network.named_parameters():
        free = any(word in name for word in words) or (one_dim and len(parameter.shape) == 1)
        (plain if free else decay).append(parameter)
    return decay, plain


def _grouped(network, weight_decay, names, one_dim):
    decay, plain = _without_decay(network, names, one_dim)
    if not plain:
        return decay
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def _sgd(network, lr, weight_decay=None, grad_clip=None, multi_precision=False):
    return paddle.optimizer.SGD(
        lr, network.parameters(), weight_decay, grad_clip, multi_precision=multi_precision
    )


def _momentum(
    network,
    lr,
    momentum=0.9,
    weight_decay=None,
    grad_clip=None,
    use_nesterov=False,
    multi_precision=True,
    no_weight_decay_name=None,
    one_dim_param_no_weight_decay=False,
    fused=True,
):
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
    network,
    lr,
    momentum=0.0,
    rho=0.95,
    epsilon=1e-6,
    weight_decay=None,
    grad_clip=None,
    no_weight_decay_name=None,
    one_dim_param_no_weight_decay=False,
):
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
    network,
    lr,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    weight_decay=None,
    grad_clip=None,
    multi_precision=False,
):
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
    network,
    lr,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    weight_decay=0.01,
    grad_clip=None,
    multi_precision=False,
    no_weight_decay_name=None,
    one_dim_param_no_weight_decay=False,
):
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


OPTIMIZERS = {"SGD": _sgd, "Momentum": _momentum, "RMSProp": _rmsprop, "Adam": _adam, "AdamW": _adamw}


def build_optimizer(config, network, epochs, steps_per_epoch):
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


def _l1(coeff=0.0):
    return paddle.regularizer.L1Decay(coeff)


def _l2(coeff=0.0):
    return paddle.regularizer.L2Decay(coeff)
