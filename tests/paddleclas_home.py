"""The PaddleClas source tree that ``PADDLECLAS_HOME`` names, for the tests that need one."""

import os
from pathlib import Path

import paddle
import pytest

HOME = os.environ.get("PADDLECLAS_HOME")
OLD = bool(HOME) and not (Path(HOME) / "ppcls/utils/amp.py").exists()
# Old PaddleClas wants losses of shape [1].
ENVIRONMENT = {"FLAGS_set_to_1d": "1"} if OLD else {}

needs_paddleclas = [
    pytest.mark.skipif(not HOME, reason="PADDLECLAS_HOME names no PaddleClas source tree"),
    pytest.mark.skipif(OLD and paddle.__version__ >= "3", reason="this PaddleClas needs Paddle 2"),
]
