"""Run one of PaddleClas' own scripts with this library's networks registered."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import paddle

from ..checkpoint import UnsafeFileError
from ..config import ConfigError, DataError
from .bridge import check_config_file, register
from .guard import BUILTINS, guard_folder, guarded


def run_script(script: str, arguments: Sequence[str]) -> None:
    """Run ``script`` (``PaddleClas/tools/train.py`` and the like) as ``python script`` would.

    The checkout is the nearest directory above the script that holds ``ppcls``.

    Raises:
        FileNotFoundError: if there is no such script, or it is not in a PaddleClas checkout.
        ConfigError, ValueError: for a mistake in the YAML (``-c``, ``-o``), before the script starts.
        DataError: for weights that hold more than arrays and plain containers.
    """
    if not os.path.isfile(script):
        raise FileNotFoundError(f"there is no script {script!r}; run this inside a PaddleClas checkout")
    script = os.path.abspath(script)
    checkout = _checkout(script)
    guard_folder(checkout)
    register(checkout)
    _check_yaml(script, arguments)
    _repair_predictor()
    _repair_distributed_evaluation()
    sys.path.insert(0, os.path.dirname(script))
    sys.argv = [script, *arguments]
    try:
        with guarded():
            runpy.run_path(script, {"__builtins__": BUILTINS}, run_name="__main__")
    except (ConfigError, DataError, UnsafeFileError):  # of the guards
        raise
    except Exception:  # the script's own: show it whole, as Python would
        traceback.print_exc()
        sys.exit(1)


def _check_yaml(script: str, arguments: Sequence[str]) -> None:
    """Check what PaddleClas' tools will read; its deployment scripts have YAMLs of another kind."""
    if os.path.basename(os.path.dirname(script)) != "tools":
        return
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-c", "--config")
    parser.add_argument("-o", "--override", action="append", default=[])
    try:
        options, _ = parser.parse_known_args(arguments)
    except SystemExit:
        return  # the script's own parser will say it
    if options.config and os.path.exists(options.config):  # the script itself knows no other
        check_config_file(options.config, options.override)


def _checkout(script: str) -> str:
    directory = os.path.dirname(script)
    while not os.path.isdir(os.path.join(directory, "ppcls", "arch")):
        above = os.path.dirname(directory)
        if above == directory:
            raise FileNotFoundError(f"{script!r} is not in a PaddleClas checkout: no ppcls/arch above it")
        directory = above
    return directory


def _repair_predictor() -> None:
    """Let ``deploy/python/predict_cls.py`` of PaddleClas HEAD run.

    It always asks for memory optimisation, and Paddle 3 built for CPU then fails
    to create a predictor, because it has no such pass. And it opens a model by
    directory and prefix, which Paddle 2.6 takes for two files.
    """
    from paddle import inference

    if int(paddle.__version__.split(".")[0]) >= 3:
        if not paddle.is_compiled_with_cuda():
            inference.Config.enable_memory_optim = lambda config, enable=True: None
        return

    class Config(inference.Config):
        def __init__(self, *paths: Any) -> None:
            if len(paths) == 2 and os.path.isdir(paths[0]):
                prefix = os.path.join(*paths)
                paths = (prefix + ".pdmodel", prefix + ".pdiparams")
            super().__init__(*paths)

    inference.Config = Config


def _repair_distributed_evaluation() -> None:
    """Let PaddleClas evaluate in several CPU processes.

    It asks for the number of the GPU, which Paddle's environment of a CPU process lacks.
    """
    if not hasattr(paddle.distributed.ParallelEnv, "_device_id"):
        paddle.distributed.ParallelEnv._device_id = 0
