"""python tools/visualize.py maps|excitation|cam -c CONFIG.yaml [-o KEY=VALUE ...]; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from paddle_attention.cli import main

if __name__ == "__main__":
    sys.exit(main("visualize"))
