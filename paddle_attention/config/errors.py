"""What is wrong in a configuration, and in the data it names."""

from __future__ import annotations

from typing import Any

_ADVICE = (
    "to use all of PaddleClas, give its source tree with --paddleclas DIR or PADDLECLAS_HOME "
    "(python -m paddle_attention get_paddleclas DIR fetches one)"
)


class ConfigError(ValueError):
    """A key, value or operator of the YAML that cannot be honoured; the message begins with the key's path."""


class DataError(ValueError):
    """An image, list or label that cannot be used; the message names the file."""


def unsupported(path: str, what: str, hint: str = "") -> ConfigError:
    """A :class:`ConfigError` for something PaddleClas may know but the embedded engine does not."""
    end = "" if hint.endswith("?") else ";"
    return ConfigError(f"{path}: {what} is not supported by the embedded engine{hint}{end} {_ADVICE}")


def short(value: Any, limit: int = 80) -> str:
    """``repr(value)`` for a message, cut at ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
