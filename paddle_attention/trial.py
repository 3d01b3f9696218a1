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
    handles: list[Any] = []
    try:
        network.eval()
        yield handles
    finally:
        for handle in handles:
            handle.remove()
        for layer, mode in modes:
            layer.training = mode
