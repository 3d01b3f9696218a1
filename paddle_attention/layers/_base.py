"""The base classes of the layers: what every mechanism shares, and what every gate does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import paddle
from paddle import Tensor, nn

from ._checks import check_feature_map

#: Kinds of attention maps, and their shape. Positions are those of a map of the layer's, row by row.
MAP_KINDS = {
    "gate": "[N, channels or 1, H or 1, W or 1]: a weight of every number, or of every channel, row, ...",
    "positions": "[N, targets, sources]: weights of positions for positions",
    "heads": "[N, heads, targets, sources]: the same, head by head",
    "column": "[N, H, W, H]: weights of the positions of its column for every position",
    "row": "[N, H, W, W]: weights of the positions of its row for every position",
    "units": "[N, units, H, W]: weights of descriptors, memory units or scales at every position",
    "bases": "[N, positions, bases]: weights of bases at every position",
    "branches": "[N, branches, channels, 1, 1]: weights of convolution branches, channel by channel",
    "channels": "[N, channels, channels]: weights of channels for channels",
    "grid": "[N, H, W, 2]: where each position is sampled, x and y from -1 to 1",
}


def map_axes(kind: str) -> int:
    """How many axes maps of a kind have."""
    return MAP_KINDS[kind].partition("]")[0].count(",") + 1


class NoMapError(ValueError):
    """With its arguments a layer weighs nothing, and so has no map to show."""


# Of every naming scheme: our prefix, and theirs; or theirs and what turns one of theirs into ours.
TorchKeys = dict[str, dict[str, Any]]


def errors_name_the_class(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, such as ``__init__``, whose errors begin with the name of the innermost class being built."""

    @functools.wraps(method)
    def named(self: nn.Layer, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (ValueError, TypeError) as error:
            if not hasattr(error, "layer"):
                error.layer = type(self).__name__  # type: ignore[union-attr]
                error.args = (f"{type(self).__name__}: {error}",)
            raise

    return named


def _keeps_statistics(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method`` that leaves the running statistics as they are, also in train mode."""

    @functools.wraps(method)
    def look(self: nn.Layer, *args: Any, **kwargs: Any) -> Any:
        statistics = [
            t
            for layer in self.sublayers()
            for t in (getattr(layer, "_mean", None), getattr(layer, "_variance", None))
            if self.training and isinstance(t, paddle.Tensor)
        ]
        before = [t.clone() for t in statistics]
        try:
            return method(self, *args, **kwargs)
        finally:
            for t, value in zip(statistics, before):
                t.set_value(value)

    return look


class AttentionLayer(nn.Layer):
    """Base of the layers here: no control flow of theirs depends on values.

    So ``paddle.jit.to_static`` need not rewrite their code, only run it; in it a size
    that is not known is -1. Errors of a constructor begin with the name of the class.

    Attributes:
        MAPS (dict): what the maps that :meth:`attention_maps` returns are, by their names (``''`` for
            one without a name): one of :data:`MAP_KINDS`; ``'gate'`` where it says nothing.
    """

    MAPS: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "__init__" in own:
            cls.__init__ = errors_name_the_class(cls.__init__)  # type: ignore[method-assign]
        if "forward" in own:
            paddle.jit.not_to_static(cls.forward)
        if "attention_maps" in own:
            cls.attention_maps = _keeps_statistics(cls.attention_maps)

    def check_input(self, x: Any, rank: int = 4) -> None:
        """Raise ValueError unless ``x`` is ``[N, self.channels, ...]`` with ``rank`` axes."""
        try:
            check_feature_map(x, self.channels, rank)
        except ValueError as error:
            raise self.error(str(error)) from None

    def error(self, message: str) -> ValueError:
        """A ValueError that begins with the name of the class, to be raised outside of constructors."""
        return ValueError(f"{type(self).__name__}: {message}")

    def extra_repr(self) -> str:
        """The arguments of the constructor that are kept as attributes."""
        kept = vars(self)
        return ", ".join(f"{n}={kept[n]}" for n in inspect.signature(type(self)).parameters if n in kept)


class GateLayer(AttentionLayer):
    """Base of the gates, which multiply every element of their input by a weight: ``y = x * gate(x)``.

    A subclass sets ``channels`` and has ``gate(x)``, whose result broadcasts to ``x``.
    """

    def gate(self, x: Tensor) -> Tensor:
        """The weights, in a shape that broadcasts to ``x``."""
        raise NotImplementedError(f"{type(self).__name__} lacks gate(x)")

    def attention_maps(self, x: Tensor) -> Tensor:
        """The weights, as :meth:`gate` returns them."""
        return self.gate(x)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return x * self.gate(x)
