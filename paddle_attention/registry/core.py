"""Names of mechanisms, facts about them, and construction."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paddle import nn

from ..naming import did_you_mean, lookup

L = TypeVar("L")
DOMAINS = ("channel", "spatial", "mixed", "branch", "temporal")


@dataclass(frozen=True)
class AttentionEntry:
    """One registered mechanism.

    Attributes:
        name: the name used in YAML and by :func:`build_attention`.
        cls: the ``paddle.nn.Layer`` class; its first argument is ``channels``.
        paper: title of the paper.
        arxiv: arXiv id, such as ``'1709.01507'``; ``None`` if there is none.
        year: year of the first version.
        domain: what the weights select among, one of :data:`DOMAINS`.
        computed_by: how the weights are computed.
        applied_by: how the weights are applied to the input.
        replaces_conv: it takes the place of a convolution (with ``out_channels`` and
            ``stride``) and does not transform a layer's output.
        takes_tokens: it is permutation-equivariant over positions, so that it also serves the
            tokens ``[N, L, C]`` of a transformer, as a feature map ``[N, C, L, 1]``.
    """

    name: str
    cls: type
    paper: str
    arxiv: str | None
    year: int
    domain: str
    computed_by: str
    applied_by: str
    replaces_conv: bool = False
    takes_tokens: bool = False


_ENTRIES: dict[str, AttentionEntry] = {}
_BUILT_IN = "paddle_attention.layers"  # importing it registers the built-in mechanisms


def _entries() -> dict[str, AttentionEntry]:
    """Everything registered; the built-in mechanisms first."""
    importlib.import_module(_BUILT_IN)
    return _ENTRIES


def register_attention(
    name: str,
    *,
    paper: str,
    arxiv: str | None,
    year: int,
    domain: str,
    computed_by: str,
    applied_by: str,
    replaces_conv: bool = False,
    takes_tokens: bool = False,
) -> Callable[[type[L]], type[L]]:
    """Class decorator that registers a ``paddle.nn.Layer`` as a mechanism.

    The arguments are the fields of :class:`AttentionEntry`.

    Raises:
        ValueError: if ``name`` is taken, ``domain`` is unknown, the first
            argument of the class is not ``channels``, or one that replaces a
            convolution lacks ``out_channels`` or ``stride``.
    """

    def register(cls: type[L]) -> type[L]:
        entries = _entries()
        if name in entries:
            raise ValueError(
                f"attention {name!r} is already registered as {entries[name].cls.__qualname__}; "
                f"choose another name for {cls.__qualname__}"
            )
        if domain not in DOMAINS:
            raise ValueError(f"attention {name!r}: domain must be one of {DOMAINS}, but got {domain!r}")
        parameters = list(inspect.signature(cls).parameters)
        if parameters[:1] != ["channels"]:
            raise ValueError(
                f"attention {name!r}: the first argument of {cls.__qualname__} must be 'channels', "
                f"but its arguments are {parameters}"
            )
        if replaces_conv and not {"out_channels", "stride"} <= set(parameters):
            raise ValueError(
                f"attention {name!r}: {cls.__qualname__} replaces a convolution and must take "
                f"out_channels and stride, but its arguments are {parameters}"
            )
        entries[name] = AttentionEntry(
            name, cls, paper, arxiv, year, domain, computed_by, applied_by, replaces_conv, takes_tokens
        )
        return cls

    return register


def get_attention(name: object) -> AttentionEntry:
    """The :class:`AttentionEntry` called ``name``.

    Raises:
        ValueError: for an unknown name, listing the nearest known ones.
    """
    return lookup("attention", name, _entries())


def list_attentions() -> list[AttentionEntry]:
    """All registered mechanisms as :class:`AttentionEntry`, sorted by year, then name."""
    return sorted(_entries().values(), key=lambda e: (e.year, e.name))


def attention_arguments(name: object) -> list[str]:
    """Names of the arguments of mechanism ``name``, without ``channels``; raises ValueError for an unknown one."""
    return list(inspect.signature(get_attention(name).cls).parameters)[1:]


def check_arguments(name: object, arguments: Mapping[Any, Any], others: Sequence[str] = ()) -> None:
    """Raise ValueError for an argument that mechanism ``name`` does not take.

    ``channels`` is not among the ``arguments`` that may be given. ``others`` are words that could
    have been meant, besides the mechanism's arguments.
    """
    for argument in arguments:
        if not isinstance(argument, str):
            raise ValueError(f"attention {name!r}: names of arguments are strings, but got {argument!r}")
    known = attention_arguments(name)
    for argument in arguments:
        if argument == "channels":
            raise ValueError(f"attention {name!r}: channels is found from the network; remove it")
        if argument not in known:
            raise ValueError(
                f"attention {name!r} takes no argument {argument!r}"
                f"{did_you_mean(argument, [*known, *others])} (it takes: {', '.join(known)})"
            )


def build_attention(name: str, channels: int, **kwargs: Any) -> nn.Layer:
    """Build the mechanism ``name`` for ``channels`` channels.

    Raises:
        ValueError: for an unknown name or argument, naming the nearest known
            one, and for whatever the class itself rejects.
    """
    check_arguments(name, kwargs)
    return get_attention(name).cls(channels, **kwargs)
