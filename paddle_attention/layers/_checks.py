"""Checks of arguments and inputs. The caller, :class:`AttentionLayer`, puts the name of the class before each."""

from __future__ import annotations

import math
from typing import Any

_AXES = {3: "[N, C, L]", 4: "[N, C, H, W]", 5: "[N, C, D, H, W]"}


def check_feature_map(x: Any, channels: int, rank: int = 4) -> None:
    """Raise ValueError unless ``x`` is ``[N, channels, ...]`` with ``rank`` axes.

    In a static graph an axis of unknown size is -1 and passes.
    """
    shape = list(x.shape)
    if len(shape) != rank:
        raise ValueError(
            f"the input must be a {rank}-D feature map {_AXES[rank]}, but has shape {shape} ({len(shape)}-D); "
            f"reshape it to {rank}-D first"
        )
    if 0 in shape:
        raise ValueError(
            f"the input has shape {shape}, which holds no numbers; give at least one image and pixel"
        )
    kind = str(x.dtype).lower()
    if any(word in kind for word in ("int", "bool", "complex")):
        raise ValueError(
            f"the input must be of real numbers, but is {kind.rpartition('.')[2]}; use x.astype('float32')"
        )
    if shape[1] not in (-1, channels):
        raise ValueError(
            f"built for channels={channels}, but got an input of shape {shape} with {shape[1]} channels; "
            f"build it with channels={shape[1]} (inputs are NCHW)"
        )


def check_positive_int(**values: Any) -> None:
    """Raise ValueError naming the first argument that is not a positive int."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, but got {value!r}")


def check_positive(**values: Any) -> None:
    """Raise ValueError naming the first argument that is not a positive number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, but got {value!r}")


def check_fraction(**values: Any) -> None:
    """Raise ValueError naming the first argument that is not a number within [0, 1]."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"{name} must be within [0, 1], but got {value!r}")


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """``value`` as a tuple of two positive ints; raise ValueError if it is not that."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name} must be (H, W), but got {value!r}")
    for size in value:
        check_positive_int(**{name: size})
    return tuple(value)


def check_odd(name: str, value: Any) -> None:
    """Raise ValueError unless the kernel size ``value`` is odd and so can keep H and W."""
    check_positive_int(**{name: value})
    if value % 2 == 0:
        raise ValueError(
            f"{name} must be odd to keep the size, but got {value}; use {value - 1} or {value + 1}"
        )


def check_choice(name: str, value: bool | str, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}, but got {value!r}")


def check_divides(channels: int, **parts: Any) -> None:
    """Raise ValueError unless every one of ``parts`` divides ``channels``."""
    check_positive_int(channels=channels, **parts)
    for name, value in parts.items():
        if channels % value:
            divisors = [d for d in range(1, channels + 1) if channels % d == 0]
            near = min(divisors, key=lambda d: abs(d - value))
            raise ValueError(f"channels={channels} is not divisible by {name}={value}; try {name}={near}")


def hidden_width(
    channels: int, reduction: int, hidden_channels: int | None = None, min_hidden: int | None = None
) -> int:
    """Width of the bottleneck: ``hidden_channels`` if given, else ``channels // reduction``, at least ``min_hidden``."""
    check_positive_int(channels=channels)
    if hidden_channels is not None:
        check_positive_int(hidden_channels=hidden_channels)
        return hidden_channels
    check_positive_int(reduction=reduction)
    if min_hidden is not None:
        check_positive_int(min_hidden=min_hidden)
        return max(channels // reduction, min_hidden)
    if reduction > channels:
        hint = ", or min_hidden=8 where the mechanism has it"
        raise ValueError(
            f"channels={channels} // reduction={reduction} leaves no hidden channel; "
            f"choose reduction <= {channels}{hint}"
        )
    return channels // reduction
