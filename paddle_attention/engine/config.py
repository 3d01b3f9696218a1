"""Checking of a PaddleClas YAML: what the embedded engine does not support is an error."""

import inspect
import logging

from ..naming import did_you_mean

_ADVICE = "to use all of PaddleClas, give its source tree with --paddleclas DIR or PADDLECLAS_HOME"


class ConfigError(ValueError):
    """A key, value or operator of the YAML that cannot be honoured; names the key path."""


def unsupported(path, what, hint=""):
    """A :class:`ConfigError` for something PaddleClas may know but this engine does not."""
    end = "" if hint.endswith("?") else ";"
    return ConfigError(f"{path}: {what} is not supported by the embedded engine{hint}{end} {_ADVICE}")


def build_by_name(path, table, name, arguments, **extra):
    """``table[name](**arguments, **extra)`` with every mistake reported under ``path``.

    Args:
        path (str): key path for messages.
        table (dict): known names to classes or functions with explicit arguments.
        name (str): the name written in the YAML.
        arguments (dict or None): the arguments written in the YAML.
        **extra: arguments from the program; dropped where they are not taken.
    """
    if name not in table:
        raise unsupported(path, f"{name!r}", f"{did_you_mean(name, table)} (supported: {', '.join(table)})")
    if arguments is not None and not isinstance(arguments, dict):
        raise ConfigError(f"{path}.{name}: must be a dict of arguments, but got {arguments!r}")
    parameters = inspect.signature(table[name]).parameters
    known = [p for p in parameters if p not in extra]
    arguments = dict(arguments or {})
    for argument in arguments:
        if argument not in known:
            raise unsupported(
                f"{path}.{name}.{argument}",
                f"argument {argument!r}",
                f"{did_you_mean(argument, known)} (supported: {', '.join(known)})",
            )
    arguments.update({k: v for k, v in extra.items() if k in parameters})
    for required, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and required not in arguments:
            raise ConfigError(f"{path}.{name}: argument {required!r} is missing")
    try:
        return table[name](**arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}.{name}: {error}") from error


def single_item(path, item):
    """``(name, arguments)`` of a YAML list item such as ``- CELoss: {weight: 1.0}``."""
    if isinstance(item, str):
        return item, None
    if not isinstance(item, dict) or len(item) != 1:
        raise ConfigError(f"{path}: must be one 'Name: arguments', but got {item!r}")
    return next(iter(item.items()))


# Key paths to what they may hold: None for anything, a tuple for the only supported values.
_KEYS = {
    "Global": {
        "checkpoints": None,
        "pretrained_model": None,
        "output_dir": None,
        "device": ("cpu", "gpu"),
        "save_interval": int,
        "eval_during_train": bool,
        "eval_interval": int,
        "epochs": int,
        "print_batch_step": int,
        "use_visualdl": bool,
        "image_shape": list,
        "save_inference_dir": None,
        "to_static": bool,
        "seed": None,
        "class_num": int,
        "update_freq": int,
        "freeze_backbone_epochs": int,
        "eval_mode": ("classification",),
        "train_mode": (None,),
        "use_dali": (False,),
        "use_multilabel": (False,),
        "print_mem_info": bool,
        "log_ranks": ("0", 0, None),
    },
    "AMP": {
        "use_amp": bool,
        "use_fp16_test": bool,
        "scale_loss": (int, float),
        "use_dynamic_loss_scaling": bool,
        "use_promote": (False,),
        "level": ("O1", "O2"),
    },
    "EMA": {"decay": (int, float)},
    "Arch": None,
    "Loss": {"Train": list, "Eval": list},
    "Optimizer": None,
    "DataLoader": {
        "Train": {"dataset": None, "sampler": None, "loader": None},
        "Eval": {"dataset": None, "sampler": None, "loader": None},
    },
    "Infer": {
        "infer_imgs": None,
        "infer_list": (None,),
        "batch_size": int,
        "transforms": list,
        "PostProcess": None,
        "save_dir": (None,),
    },
    "Metric": {"Train": list, "Eval": list},
    "profiler_options": None,
}
_REQUIRED = {
    "train": ("Global.epochs", "Arch", "Loss.Train", "Optimizer", "DataLoader.Train"),
    "eval": ("Arch", "DataLoader.Eval"),
    "infer": ("Arch", "Infer.transforms", "Infer.PostProcess"),
    "export": ("Arch", "Global.image_shape"),
    "predict": ("Infer.transforms", "Infer.PostProcess"),
}
_LOGGER = logging.getLogger("ppcls")
_TYPE_NAMES = {int: "an integer", bool: "True or False", list: "a list", (int, float): "a number"}


def check_config(config, mode, whole=True):
    """Raise :class:`ConfigError` for the first key or value that cannot be honoured.

    Args:
        config (dict): the parsed YAML.
        mode (str): ``'train'``, ``'eval'``, ``'infer'``, ``'export'`` or ``'predict'``.
        whole (bool): check every key, not only that those are there that ``mode`` needs.
    """
    if whole:
        _check_level(config, _KEYS, "")
    for path in _REQUIRED[mode]:
        node = config
        for key in path.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            raise ConfigError(f"{path}: missing, but needed to {mode}")
    section = config.get("Global") or {}
    for key in ("epochs", "print_batch_step", "update_freq", "eval_interval"):
        if section.get(key) is not None and section[key] < 1:
            raise ConfigError(f"Global.{key}: must be at least 1, but got {section[key]!r}")
    if (section.get("freeze_backbone_epochs") or 0) < 0:
        raise ConfigError(
            f"Global.freeze_backbone_epochs: must be at least 0, but got {section['freeze_backbone_epochs']!r}"
        )
    if section.get("freeze_backbone_epochs") and (config.get("Arch") or {}).get("use_sync_bn"):
        raise ConfigError(
            "Global.freeze_backbone_epochs: Paddle's synchronised normalisation (Arch.use_sync_bn) cannot keep "
            "its statistics while it trains; leave one of them out"
        )
    seed = section.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ConfigError(f"Global.seed: must be an integer, but got {seed!r}")


def move_class_num(config):
    """``Global.class_num`` is PaddleClas' old place for ``Arch.class_num``: move it there."""
    settings, arch = config.get("Global") or {}, config["Arch"]
    if "class_num" in settings:
        if "class_num" in arch:
            _LOGGER.warning("Global.class_num is ignored, Arch.class_num is used")
        else:
            arch["class_num"] = settings["class_num"]


def _check_level(node, keys, path):
    if not isinstance(node, dict):
        raise ConfigError(f"{path or 'the config'}: must be a dict, but got {node!r}")
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if key not in keys:
            raise unsupported(here, f"key {key!r}", did_you_mean(key, keys))
        allowed = keys[key]
        if isinstance(allowed, dict):
            if value is not None:
                _check_level(value, allowed, here)
        elif isinstance(allowed, type) or allowed == (int, float):
            if value is not None and (
                not isinstance(value, allowed) or (isinstance(value, bool) and allowed is not bool)
            ):
                raise ConfigError(f"{here}: must be {_TYPE_NAMES[allowed]}, but got {value!r}")
        elif isinstance(allowed, tuple) and value not in allowed:
            supported = ", ".join(map(repr, allowed))
            raise unsupported(here, f"{value!r}", f" (supported: {supported})")
