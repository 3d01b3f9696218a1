"""Read a YAML with its ``-o`` overrides, strictly, and remember on which line everything stands."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from typing import Any

import yaml

from ..naming import did_you_mean
from .errors import ConfigError, short

_LARGEST_FILE = 10_000_000  # bytes
_LARGEST_CONFIG = 100_000  # values, with every alias written out
_LONGEST_LITERAL = 10_000  # characters

SECTIONS = (
    "Global",
    "AMP",
    "EMA",
    "Arch",
    "Loss",
    "Optimizer",
    "DataLoader",
    "Infer",
    "Metric",
    "profiler_options",
    "Slim",
    "Distillation",
)


class Config(dict):
    """The sections of a YAML.

    Attributes:
        path (str): the file.
        lines (dict): key paths to their lines, such as ``{'Global.epochs': 7}``.
        overridden (dict): key paths to the ``-o`` options that set them.
    """

    path: str | None = None
    lines: dict[str, int] = {}
    overridden: dict[str, str] = {}

    def locate(self, message: str) -> str:
        """Where the key that begins ``message`` stands: ``'a.yaml:7'``, ``"-o 'x=1'"`` or ``''``."""
        found = re.match(r"[\w.]+", message)
        keys = found[0].rstrip(".").split(".") if found else []
        while keys:
            key = ".".join(keys)
            if key in self.overridden:
                return f"-o {self.overridden[key]!r}"
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
            keys.pop()
        return ""


def read_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """The YAML at ``path`` with ``overrides`` such as ``'Global.epochs=3'`` applied.

    As in PaddleClas, a value that is a Python literal in quotes is that literal. The
    value of an override is a Python literal or YAML; nothing is evaluated.

    Args:
        path (str): the file, in UTF-8.
        overrides (sequence of str): ``key.subkey=value``.

    Returns:
        :class:`Config`.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: for a file that is not YAML or holds a key twice, and for an override that
            names a place the YAML cannot have; with file and line.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no config file {path!r}")
    with open(path, "rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{path} has more than {_LARGEST_FILE} bytes; it is no configuration")
    lines: dict[str, int] = {}
    value = _load(_decode(content, path), path, lines)
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold sections such as Global and Arch, but got {short(value)}")
    _check_size(value, path)
    config = Config(_without_aliases(value))
    config.path, config.lines, config.overridden = path, lines, {}
    _read_literals(config)
    for option in overrides:
        apply_override(config, option)
    return config


def _decode(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


class _Loader(yaml.SafeLoader):
    """Impossible dates and numbers are errors with a line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, TypeError) as error:
            value = f" {node.value[:40]!r}" if isinstance(node, yaml.ScalarNode) else ""
            raise yaml.constructor.ConstructorError(
                None, None, f"{error}{value}; put it in quotes if it is a string", node.start_mark
            ) from error


def _load(text: str, path: str, lines: dict[str, int]) -> Any:
    """The value of a YAML text; ``lines`` gets the line of every key path."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _walk(node, (), lines, path, {})
        return loader.construct_document(node)
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(
            f"{path} is not a YAML file for this tool: nested too deeply, or in itself"
        ) from None
    except (ValueError, OverflowError, TypeError) as error:  # impossible dates and numbers
        raise ConfigError(f"{path} is not a YAML file: {error}") from error


def _walk(
    node: Any,
    keys: tuple[str, ...],
    lines: dict[str, int],
    path: str,
    above: dict[int, bool],
) -> None:
    """Note the lines below ``node``; refuse keys that come twice and nodes that hold themselves."""
    line = node.start_mark.line + 1
    if above.get(id(node)):
        raise ConfigError(
            f"{path}:{line}: {'.'.join(keys)} holds itself (an anchor '&' inside its own value)"
        )
    above[id(node)] = True
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, at = str(key.value), key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if name in seen:
                    raise ConfigError(
                        f"{path}:{at}: {'.'.join((*keys, name))} is given twice, also on line {seen[name]}; "
                        "keep one of them"
                    )
                seen[name] = at
            lines.setdefault(".".join((*keys, name)), at)
            if len(lines) > _LARGEST_CONFIG:
                raise ConfigError(f"{path} holds more than {_LARGEST_CONFIG} values; it is no configuration")
            _walk(value, (*keys, name), lines, path, above)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines.setdefault(".".join((*keys, str(i))), value.start_mark.line + 1)
            if len(lines) > _LARGEST_CONFIG:
                raise ConfigError(f"{path} holds more than {_LARGEST_CONFIG} values; it is no configuration")
            _walk(value, (*keys, str(i)), lines, path, above)
    above[id(node)] = False


def _without_aliases(value: Any) -> Any:
    """A copy in which an alias is a value of its own, that a literal or an override changes alone."""
    if isinstance(value, dict):
        return {k: _without_aliases(v) for k, v in value.items()}
    return [_without_aliases(v) for v in value] if isinstance(value, list) else value


def _read_literals(section: Any) -> None:
    """Turn strings that are Python literals into them, in dicts and not in lists, as PaddleClas does."""
    for key, value in section.items():
        if isinstance(value, str):
            section[key] = _literal(value, value)
        elif isinstance(value, dict):
            _read_literals(value)


def _literal(text: str, otherwise: Any) -> Any:
    if len(text) > _LONGEST_LITERAL:
        return otherwise
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return otherwise


def parse_value(text: str, what: str = "the value") -> Any:
    """The value of an override: a Python literal such as ``None``, else YAML; nothing is evaluated.

    Raises:
        ConfigError: naming ``what``, for a text that is neither.
    """
    value = _literal(text, _load)
    return _load(text, what, {}) if value is _load else value


def apply_override(config: Config, option: str) -> None:
    """Set one value of ``config`` as ``'key.subkey=value'`` says; new keys of a dict are made.

    Raises:
        ConfigError: for an option of another form, or one that names a place ``config`` cannot have.
    """
    path, separator, text = option.partition("=")
    if not separator or not path:
        raise ConfigError(f"-o {option!r}: an override is written key.subkey=value")
    *above, last = path.split(".")
    node: Any = config
    for i, name in enumerate(above):
        key = _key_of(node, name, above[:i], option)
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]
    key = _key_of(node, last, above, option)
    value = parse_value(text, f"-o {option!r}")
    _check_size(value, f"-o {option!r}")
    node[key] = value
    if isinstance(config, Config):
        config.overridden[path] = option


def _key_of(node: Any, key: str, above: list[str], option: str) -> str | int:
    """``key`` as an index of ``node``, which stands at ``above``."""
    here = ".".join(above)
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigError(
                f"-o {option!r}: {here} is a list of {len(node)}; "
                f"number its items from 0 to {len(node) - 1}, as in {here}.0, not {key!r}"
            )
        return int(key)
    if not isinstance(node, dict):
        raise ConfigError(f"-o {option!r}: {here} is {short(node)} and has no {key!r} in it")
    if not above and key not in node and key not in SECTIONS:
        raise ConfigError(f"-o {option!r}: there is no section {key!r}{did_you_mean(key, SECTIONS)}")
    return key


def _check_size(value: Any, what: str) -> None:
    """Refuse what is small in the file and huge in memory, because aliases repeat aliases."""
    sizes = {}

    def size(node: Any) -> int:
        if not isinstance(node, (dict, list, tuple, set)):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(map(size, node.values() if isinstance(node, dict) else node))
        return sizes[id(node)]

    try:
        total = size(value)
    except RecursionError:
        raise ConfigError(f"{what} is nested too deeply") from None
    if total > _LARGEST_CONFIG:
        raise ConfigError(f"{what} holds {total} values with every alias written out; it is no configuration")
