"""The command line: ``tools/*.py`` and ``python -m paddle_attention``.

This package imports Paddle only inside its commands, after the number of CPU
threads is set.
"""

from .main import main

__all__ = ["main"]
