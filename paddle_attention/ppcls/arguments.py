"""Which arguments PaddleClas' networks use, of those that they take."""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..naming import did_you_mean

_logger = logging.getLogger("ppcls")


def check_used(
    path: str,
    name: str,
    factory: Callable[..., Any],
    network_class: type,
    arguments: Mapping[str, Any],
    others: Sequence[str] = (),
) -> None:
    """Raise ValueError for an argument that PaddleClas' network ``name`` would drop; ``path`` is its section's.

    One that asks for nothing (0, False, None), as in some of PaddleClas' own YAMLs, is a warning.
    ``others`` are words that could have been meant.
    """
    known = accepted_arguments(factory, network_class)
    for argument, value in arguments.items():
        if argument in known:
            continue
        if not value:
            _logger.warning(f"{path}.{argument}: {value!r} has no effect: {name} takes no such argument")
            continue
        raise ValueError(
            f"{path}.{argument}: backbone {name} takes no argument {argument!r}"
            f"{did_you_mean(argument, [*known, *others])} (it takes: {', '.join(sorted(known))})"
        )


def accepted_arguments(factory: Callable[..., Any], network_class: type) -> set[str]:
    """Names of the arguments that a PaddleClas factory really uses.

    Most factories take ``**kwargs`` and hand them to the class, and many
    classes take ``**kwargs`` and drop them. A ``**kwargs`` that the function
    body never reads accepts nothing here, and one that it only picks names from
    accepts those.
    """
    names: set[str] = set()
    chain = [factory, *(vars(c)["__init__"] for c in network_class.__mro__ if "__init__" in vars(c))]
    for function in chain:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            break
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names |= {p.name for p in parameters if p.kind in named}
        rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        handed_on, picked = (False, set()) if rest is None else _uses(function, rest)
        names |= picked
        if not handed_on:
            break
        if function is not factory:  # TheseusLayer.__init__ hands its arguments to init_net
            init_net = getattr(network_class, "init_net", None)
            if init_net is not None:
                names |= set(inspect.signature(init_net).parameters)
    return names - {"self", "args", "kwargs", "cls"}


def _is_copy(node: ast.expr, is_it: Callable[[Any], bool]) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "copy"
        and is_it(node.func.value)
    )


def _uses(function: Callable[..., Any], name: str) -> tuple[Any, ...]:
    """How the dict ``name`` is used in ``function``: ``(handed on whole, keys picked by name)``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return True, set()

    names, picked, accounted = {name}, set(), 0

    def is_it(node: Any) -> bool:
        return isinstance(node, ast.Name) and node.id in names

    for node in ast.walk(tree):  # config = kwargs.copy()
        if isinstance(node, ast.Assign) and _is_copy(node.value, is_it):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            accounted += 1 + len(node.targets)
    for node in ast.walk(tree):
        key = None
        if isinstance(node, ast.Subscript) and is_it(node.value):
            key = node.slice
        elif isinstance(node, ast.Compare) and any(is_it(c) for c in node.comparators):
            key = node.left
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_it(node.func.value):
            key = node.args[0] if node.args else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            picked.add(key.value)
            accounted += 1
    return sum(map(is_it, ast.walk(tree))) > accounted, picked
