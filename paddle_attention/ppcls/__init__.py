"""The bridge to PaddleClas. Nothing outside this package imports PaddleClas.

Importing this package does not import PaddleClas either: an installed
PaddleClas imports ``paddle_attention.ppcls.backbones`` while it is itself being
imported.
"""

from .bridge import build_network, find_paddleclas, init_logger, load_config, profiler_step, register
from .fetching import get_paddleclas
from .install import install, uninstall
from .run import run_script

__all__ = [
    "build_network",
    "find_paddleclas",
    "get_paddleclas",
    "init_logger",
    "install",
    "load_config",
    "profiler_step",
    "register",
    "run_script",
    "uninstall",
]
