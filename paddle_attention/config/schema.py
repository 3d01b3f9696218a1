"""What every key may hold, as JSON Schema (2020-12).

Names of losses, operators, optimizers and of their arguments are those of the
classes that are built (:mod:`.building`); here are the types and ranges of their
values, and all keys of the sections that have fixed ones. ``title`` is what an
error says the value must be.
"""

from __future__ import annotations

from typing import Any

# Only the embedded engine knows these; PaddleClas' own would ignore them.
OWN_KEYS = (
    "freeze_backbone_epochs",
    "keep",
    "log_attention",
    "max_image_pixels",
    "nan_policy",
    "on_bad_image",
    "save_steps",
)


Schema = dict[str, Any]


def _or_null(kind: str, title: str, **limits: Any) -> Schema:
    return {"type": [kind, "null"], "title": title, **limits}


def _integer(minimum: int | None = None, maximum: int | None = None) -> Schema:
    limits = {"minimum": minimum, "maximum": maximum}
    return _or_null("integer", "an integer", **{k: v for k, v in limits.items() if v is not None})


def _number(**limits: Any) -> Schema:
    return _or_null("number", "a number", **limits)


def _only(*values: Any) -> Schema:
    return {"enum": list(values)}


def _pair(item: Schema, title: str) -> Schema:
    return {"type": ["array", "null"], "title": title, "items": item, "minItems": 2, "maxItems": 2}


def _section(**properties: Schema) -> Schema:
    return {
        "type": ["object", "null"],
        "title": "a dict",
        "properties": properties,
        "additionalProperties": False,
    }


def _arguments(**properties: Schema) -> Schema:
    """A dict whose names are checked when it is built."""
    return {"type": ["object", "null"], "title": "a dict of arguments", "properties": properties}


def _named(title: str, **tables: Schema) -> Schema:
    """A list of names, or of dicts of one name and its arguments."""
    return {
        "type": ["array", "null"],
        "title": title,
        "items": {"type": ["object", "string"], "title": "one 'Name: arguments'", "properties": tables},
    }


BOOL = _or_null("boolean", "True or False")
TEXT = _or_null("string", "a string")
PATH = _or_null("string", "a path", minLength=1, pattern="^[^\\0]*$")
POSITIVE = _number(exclusiveMinimum=0)
NOT_NEGATIVE = _number(minimum=0)
COUNT = _integer(1, 2**31 - 1)
RATE = _number(minimum=0, maximum=1)
THREE = {
    "type": ["array", "null"],
    "title": "a list of three numbers",
    "items": {"type": "number", "title": "a number"},
    "minItems": 3,
    "maxItems": 3,
}
DEVIATIONS = {**THREE, "items": {"type": "number", "title": "a number", "exclusiveMinimum": 0}}
NUMBERS = {"type": ["array", "null"], "title": "a list of numbers", "items": {"type": "number"}}
EPOCHS = {
    "type": ["array", "null"],
    "title": "a list of epochs",
    "items": {"type": "integer", "minimum": 0, "title": "an integer"},
}
SHAPE = {
    "type": ["array", "null"],
    "title": "a list [channels, height, width]",
    "items": {"type": ["integer", "null"], "minimum": 1, "title": "a positive integer"},
    "minItems": 3,
    "maxItems": 3,
}
AMOUNT = {
    "type": ["number", "array", "null"],
    "title": "a number or a list of two",
    "minimum": 0,
    "items": {"type": "number"},
}

GLOBAL = _section(
    checkpoints=PATH,
    pretrained_model=PATH,
    output_dir=PATH,
    device=_only("cpu", "gpu"),
    save_interval=_integer(-1),
    save_steps=COUNT,
    keep=COUNT,
    eval_during_train=BOOL,
    eval_interval=COUNT,
    start_eval_epoch=_integer(0),
    epochs=COUNT,
    print_batch_step=COUNT,
    use_visualdl=BOOL,
    log_attention=COUNT,
    image_shape=SHAPE,
    pdx_model_name=TEXT,
    save_inference_dir=PATH,
    to_static=BOOL,
    seed=_integer(0, 2**63 - 1),
    class_num=COUNT,
    update_freq=COUNT,
    freeze_backbone_epochs=_integer(0),
    nan_policy={
        "type": ["string", "integer", "null"],
        "title": "'stop', or how many such batches to skip",
        "pattern": "^stop$",
        "minimum": 1,
    },
    on_bad_image=_only("error", "skip", None),
    max_image_pixels=COUNT,
    eval_mode=_only("classification"),
    train_mode=_only(None),
    use_dali=_only(False),
    use_multilabel=BOOL,
    print_mem_info=BOOL,
    log_ranks=_only("0", 0, None),
)
AMP = _section(
    use_amp=BOOL,
    use_fp16_test=BOOL,
    scale_loss=POSITIVE,
    use_dynamic_loss_scaling=BOOL,
    use_promote=_only(False),
    level=_only("O1", "O2"),
)
LOSSES = _named(
    "a list of losses",
    **dict.fromkeys(("CELoss", "MixCELoss"), _arguments(weight=_number(), epsilon=RATE, reduction=TEXT)),
    MultiLabelLoss=_arguments(weight=_number(), epsilon=RATE, size_sum=BOOL, weight_ratio=BOOL),
    MultiLabelAsymmetricLoss=_arguments(
        weight=_number(),
        gamma_pos=NOT_NEGATIVE,
        gamma_neg=NOT_NEGATIVE,
        clip=RATE,
        epsilon=POSITIVE,
        disable_focal_loss_grad=BOOL,
        reduction=TEXT,
    ),
)
SCHEDULE = {
    "properties": {
        "learning_rate": NOT_NEGATIVE,
        "warmup_epoch": NOT_NEGATIVE,
        "warmup_start_lr": NOT_NEGATIVE,
        "last_epoch": _integer(-1),
        "by_epoch": BOOL,
        "eta_min": NOT_NEGATIVE,
        "end_lr": NOT_NEGATIVE,
        "power": POSITIVE,
        "cycle": BOOL,
        "step_size": POSITIVE,
        "gamma": POSITIVE,
        "decay_epochs": EPOCHS,
        "values": NUMBERS,
    }
}
OPTIMIZER = {
    "properties": {
        "name": TEXT,
        "momentum": _number(minimum=0, exclusiveMaximum=1),
        "weight_decay": NOT_NEGATIVE,
        "clip_norm": POSITIVE,
        "use_nesterov": BOOL,
        "multi_precision": BOOL,
        "no_weight_decay_name": TEXT,
        "one_dim_param_no_weight_decay": BOOL,
        "rho": _number(minimum=0, exclusiveMaximum=1),
        "beta1": _number(minimum=0, exclusiveMaximum=1),
        "beta2": _number(minimum=0, exclusiveMaximum=1),
        "epsilon": POSITIVE,
        "regularizer": _arguments(name=TEXT, coeff=NOT_NEGATIVE),
        "lr": SCHEDULE,
    }
}
_MIXING = {
    "MixupOperator": _arguments(alpha=POSITIVE, prob=RATE),
    "CutmixOperator": _arguments(alpha=POSITIVE, prob=RATE),
}
TRANSFORMS = _named(
    "a list of operators",
    DecodeImage=_arguments(to_rgb=BOOL, channel_first=BOOL, backend=TEXT),
    ResizeImage=_arguments(resize_short=COUNT, interpolation=TEXT, backend=TEXT),
    RandCropImage=_arguments(
        scale=_pair({"type": "number", "exclusiveMinimum": 0, "title": "a number"}, "a list of two numbers"),
        ratio=_pair({"type": "number", "exclusiveMinimum": 0, "title": "a number"}, "a list of two numbers"),
        interpolation=TEXT,
        use_log_aspect=BOOL,
        backend=TEXT,
    ),
    Pad=_arguments(padding=_integer(0), fill=_number(minimum=0, maximum=255)),
    Padv2=_arguments(size_divisor=COUNT, pad_mode=_integer(-1, 2)),
    ColorJitter=_arguments(
        prob=NOT_NEGATIVE, brightness=AMOUNT, contrast=AMOUNT, saturation=AMOUNT, hue=AMOUNT
    ),
    RandAugment=_arguments(num_layers=COUNT, magnitude=_number(minimum=0, maximum=10)),
    RandAugmentV3=_arguments(num_layers=COUNT, magnitude=_number(minimum=0, maximum=10), interpolation=TEXT),
    TimmAutoAugment=_arguments(prob=RATE, config_str=TEXT, interpolation=TEXT, mean=THREE),
    Cutout=_arguments(n_holes=COUNT, length=COUNT),
    RandomErasing=_arguments(mean=THREE, attempt=COUNT, use_log_aspect=BOOL, mode=TEXT),
    NormalizeImage=_arguments(mean=THREE, std=DEVIATIONS, output_fp16=BOOL),
)
MIXING = _named("a list of operators", OpSampler=_arguments(**_MIXING), **_MIXING)
PART = _section(
    dataset={
        "properties": {
            "image_root": PATH,
            "cls_label_path": PATH,
            "data_file": PATH,
            "mode": TEXT,
            "delimiter": {"type": "string", "minLength": 1, "title": "a string of at least one character"},
            "relabel": BOOL,
            "label_ratio": BOOL,
            "download": BOOL,
            "transform_ops": TRANSFORMS,
            "batch_transform_ops": MIXING,
        }
    },
    sampler={
        "properties": {
            "batch_size": COUNT,
            "shuffle": BOOL,
            "drop_last": BOOL,
            "first_bs": COUNT,
            "divided_factor": COUNT,
            "is_training": BOOL,
            "seed": _integer(0, 2**31 - 1),
        }
    },
    loader={"properties": {"num_workers": _integer(0, 256), "use_shared_memory": BOOL}},
)
INFER = _section(
    infer_imgs=PATH,
    infer_list=_only(None),
    batch_size=COUNT,
    transforms=TRANSFORMS,
    PostProcess=_arguments(class_id_map_file=PATH, delimiter=TEXT),
    save_dir=_only(None),
)
METRICS = _named(
    "a list of metrics",
    TprAtFpr=_arguments(max_fpr=RATE),
    ATTRMetric=_arguments(threshold=_number()),
    AccuracyScore=_arguments(base=TEXT),
    MultiLabelMAP=_arguments(map_type=TEXT),
)

SCHEMA = _section(
    Global=GLOBAL,
    AMP=AMP,
    EMA=_section(decay=_number(minimum=0, exclusiveMaximum=1)),
    Arch={
        "type": ["object", "null"],
        "title": "a dict such as {name: SE_ResNet50}",
        "properties": {"class_num": COUNT},
    },
    Loss=_section(Train=LOSSES, Eval=LOSSES),
    Optimizer=OPTIMIZER,
    DataLoader=_section(Train=PART, Eval=PART),
    Infer=INFER,
    Metric=_section(Train=METRICS, Eval=METRICS),
    profiler_options=TEXT,
)
