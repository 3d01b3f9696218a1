"""python tools/convert_torch_weights.py SOURCE TARGET.pdparams --layer CBAM --channels 256; see --help."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from paddle_attention.cli import main

if __name__ == "__main__":
    sys.exit(main("convert_torch_weights"))
