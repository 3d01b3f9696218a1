"""Random numbers of the thread that draws them: what reads images does not disturb what trains on them.

:data:`random` and :data:`numpy_random` stand for the modules ``random`` and
``numpy.random``. Until :func:`set_seed` is called in a thread they are these modules.
"""

from __future__ import annotations

import random as _random
import threading
from typing import Any

import numpy as _np


class _Local(threading.local):
    python: Any = _random
    numpy: Any = _np.random


_local = _Local()


class _Generator:
    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_local, self._kind), name)


random, numpy_random = _Generator("python"), _Generator("numpy")


def derive_seed(*parts: int) -> int:
    """A seed of 32 bits from whole numbers, for which similar numbers give unrelated seeds."""
    return int(_np.random.SeedSequence(parts).generate_state(1)[0])


def set_seed(*parts: int) -> None:
    """Give this thread generators of its own, seeded by whole numbers."""
    seed = derive_seed(*parts)
    _local.python, _local.numpy = _random.Random(seed), _np.random.RandomState(seed)
