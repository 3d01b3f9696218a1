#!/usr/bin/env bash
# Build the site in an environment of its own; every code cell of its pages is run. Further arguments go to sphinx-build.
# Usage: bash tools/build_docs.sh        (the site is then docs/_build/html/index.html)
set -euo pipefail
cd "$(dirname "$0")/.."

source tools/setup_venv.sh .venv-docs cpu,ppcls,docs
python -m sphinx -W --keep-going -b html docs docs/_build/html "$@"
echo "the site: $PWD/docs/_build/html/index.html"
