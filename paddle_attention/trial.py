"""Run a network to look at it, and leave it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from paddle import nn


@contextlib.contextmanager
def trial(network: nn.Layer) -> Iterator[list[Any]]:
    """The network in evaluation mode, inside; its layers' own modes again, afterwards.

    Args:
        network (paddle.nn.Layer): any network.

    Yields:
        A list for the handles of hooks: all in it are removed at the end.
    """
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    statistics = [(tensor, tensor.clone()) for tensor in _statistics(network)]
    handles: list[Any] = []
    try:
        network.eval()
        yield handles
    finally:
        for handle in handles:
            handle.remove()
        for layer, mode in modes:
            layer.training = mode
        for tensor, value in statistics:
            tensor.set_value(value)


def _statistics(network: nn.Layer) -> Iterator[Any]:
    """What layers may change in evaluation mode as well: ``BatchNorm(trainable_statistics=True)`` does."""
    for layer in network.sublayers(include_self=True):
        if getattr(layer, "_trainable_statistics", False):
            yield from (layer._mean, layer._variance)
