"""Run one of PaddleClas' own scripts with this library's networks registered."""

import os
import runpy
import sys
import traceback

from .bridge import register


def run_script(script, arguments):
    """Run ``script`` (``PaddleClas/tools/train.py`` and the like) as ``python script`` would.

    The checkout is the directory above the script's own.

    Raises:
        FileNotFoundError: if there is no such script, or it is not in a PaddleClas checkout.
    """
    if not os.path.isfile(script):
        raise FileNotFoundError(f"there is no script {script!r}; run this inside a PaddleClas checkout")
    script = os.path.abspath(script)
    root = os.path.dirname(os.path.dirname(script))
    register(root)
    sys.path.insert(0, os.path.dirname(script))
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception:  # the script's own: show it whole, as Python would
        traceback.print_exc()
        sys.exit(1)
