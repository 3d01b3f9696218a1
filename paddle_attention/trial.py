"""Run a network to look at it, and leave it as it was."""

import contextlib


@contextlib.contextmanager
def trial(network):
    """The network in evaluation mode, inside; its layers' own modes again, afterwards.

    Args:
        network (paddle.nn.Layer): any network.

    Yields:
        A list for the handles of hooks: all in it are removed at the end.
    """
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    handles = []
    try:
        network.eval()
        yield handles
    finally:
        for handle in handles:
            handle.remove()
        for layer, mode in modes:
            layer.training = mode
