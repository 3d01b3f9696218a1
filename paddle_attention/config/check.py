"""Check a configuration against its schema, with messages that say what to do."""

from __future__ import annotations

import hashlib
import logging
import math
import reprlib
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from ..naming import did_you_mean
from .errors import ConfigError, unsupported
from .schema import SCHEMA

_LOGGER = logging.getLogger("ppcls")
_REQUIRED = {
    "train": ("Global.epochs", "Arch", "Loss.Train", "Optimizer", "DataLoader.Train"),
    "eval": ("Arch", "DataLoader.Eval"),
    "infer": ("Arch", "Infer.transforms", "Infer.PostProcess"),
    "export": ("Arch", "Global.image_shape"),
    "summary": ("Arch",),
    "predict": ("Infer.transforms", "Infer.PostProcess"),
}


_SEVERAL = ("RecModel", "DistillationModel", "AttentionModel")
_LARGEST = 2**63 - 1  # integer of Paddle's


def _is_number(checker: Any, value: Any) -> bool:
    if isinstance(value, int):
        return _is_integer(checker, value)
    return isinstance(value, float) and math.isfinite(value)


def _is_integer(checker: Any, value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int) and -_LARGEST <= value <= _LARGEST


def _is_array(checker: Any, value: Any) -> bool:
    return isinstance(value, (list, tuple))


#: JSON Schema with this library's numbers: finite, and no ``3.0`` for an integer.
VALIDATOR = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_integer, "array": _is_array}
    ),
)(SCHEMA)

# What a limit of the schema means in words; {0} is the limit.
_LIMITS = {
    "minimum": "at least {0}",
    "maximum": "at most {0}",
    "exclusiveMinimum": "more than {0}",
    "exclusiveMaximum": "less than {0}",
}


def check_config(config: dict[str, Any], mode: str, whole: bool = True) -> None:
    """Raise :class:`ConfigError` for the first key or value that cannot be honoured.

    Args:
        config (dict): the parsed YAML.
        mode (str): ``'train'``, ``'eval'``, ``'infer'``, ``'export'``, ``'predict'`` or ``'summary'``.
        whole (bool): refuse keys and choices that only PaddleClas' own engine knows.
    """
    for error in VALIDATOR.iter_errors(config):
        if whole or error.validator not in ("additionalProperties", "enum"):
            raise _explain(error)
    arch = config.get("Arch")
    if (
        whole
        and mode in ("train", "eval", "infer")
        and isinstance(arch, dict)
        and arch.get("name") in _SEVERAL
    ):
        raise unsupported("Arch.name", f"{arch['name']!r}, which returns a dict,")
    for path in _REQUIRED[mode]:
        node: Any = config
        for key in path.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            raise ConfigError(f"{path}: missing, but needed to {mode}")
    if (config.get("Global") or {}).get("freeze_backbone_epochs") and (config.get("Arch") or {}).get(
        "use_sync_bn"
    ):
        raise ConfigError(
            "Global.freeze_backbone_epochs: Paddle's synchronised normalisation (Arch.use_sync_bn) cannot keep "
            "its statistics while it trains; leave one of them out"
        )


def _explain(error: Any) -> ConfigError:
    """A :class:`ConfigError` for an error of the validator."""
    path = ".".join(map(str, error.absolute_path))
    value = reprlib.Repr()
    value.maxstring = value.maxother = 80
    got = value.repr(error.instance)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        key = next(k for k in error.instance if k not in known)
        return unsupported(f"{path}.{key}" if path else str(key), f"key {key!r}", did_you_mean(key, known))
    if error.validator == "enum":
        return unsupported(path, got, f" (supported: {', '.join(map(repr, error.validator_value))})")
    if error.validator in _LIMITS:
        return ConfigError(
            f"{path}: must be {_LIMITS[error.validator].format(error.validator_value)}, but got {got}"
        )
    title = error.schema.get("title", "of another kind")
    return ConfigError(f"{path or 'the config'}: must be {title}, but got {got}")


def move_class_num(config: dict[str, Any]) -> None:
    """``Global.class_num`` is PaddleClas' old place for ``Arch.class_num``: move it there."""
    settings, arch = config.get("Global") or {}, config["Arch"]
    if "class_num" in settings:
        if "class_num" in arch:
            _LOGGER.warning("Global.class_num is ignored, Arch.class_num is used")
        else:
            arch["class_num"] = settings["class_num"]


def section_hashes(config: dict[str, Any]) -> dict[str, str]:
    """A short checksum of every section of a configuration, to tell which have changed."""
    return {
        str(key): hashlib.sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()[:16]
        for key, value in config.items()
    }
