"""Build what a YAML names, with every mistake reported under its key path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..naming import did_you_mean
from .errors import ConfigError, unsupported


def build_by_name(
    path: str,
    table: Mapping[str, Callable[..., Any]],
    name: str,
    arguments: dict[str, Any] | None,
    **extra: Any,
) -> Any:
    """``table[name](**arguments, **extra)`` with every mistake reported under ``path``.

    Args:
        path, table, name, arguments: see :func:`arguments_by_name`.
        **extra: arguments from the program; dropped where they are not taken.
    """
    arguments = arguments_by_name(path, table, name, arguments, **extra)
    try:
        return table[name](**arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:  # Paddle asserts
        raise ConfigError(f"{path}.{name}: {error or 'these arguments do not go together'}") from error


def arguments_by_name(
    path: str,
    table: Mapping[str, Callable[..., Any]],
    name: str,
    arguments: dict[str, Any] | None,
    **extra: Any,
) -> dict[str, Any]:
    """The arguments for ``table[name]``: those written in the YAML, checked by name, and ``extra``.

    Args:
        path (str): key path for messages.
        table (dict): known names to classes or functions with explicit arguments.
        name (str): the name written in the YAML.
        arguments (dict or None): the arguments written in the YAML.
        **extra: arguments from the program; dropped where they are not taken.
    """
    if not isinstance(name, str) or name not in table:
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
    # None stands for the default, as in PaddleClas' YAMLs.
    arguments = {k: v for k, v in arguments.items() if v is not None or parameters[k].default is None}
    arguments.update({k: v for k, v in extra.items() if k in parameters})
    for required, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and required not in arguments:
            raise ConfigError(f"{path}.{name}: argument {required!r} is missing")
    return arguments


def single_item(path: str, item: Any) -> tuple[str, dict[str, Any] | None]:
    """``(name, arguments)`` of a YAML list item such as ``- CELoss: {weight: 1.0}``."""
    if isinstance(item, str):
        return item, None
    if not isinstance(item, dict) or len(item) != 1:
        raise ConfigError(f"{path}: must be one 'Name: arguments', but got {item!r}")
    return next(iter(item.items()))
