#!/usr/bin/env bash
# Set up an environment and run the fast tests in two processes; further arguments go to pytest.
# Usage: bash tools/run_tests.sh [pytest arguments]
#   PADDLE=2.6.2            test with Paddle 2.6.2 instead of 3.3.1
#   PADDLECLAS_HOME=DIR     also test with this PaddleClas source tree
set -euo pipefail
cd "$(dirname "$0")/.."

case ${PADDLE:-3.3.1} in
    3.3.1) source tools/setup_venv.sh .venv-test cpu,ppcls,openvino,test ;;
    2.6.2) source tools/setup_venv.sh .venv-test-2.6 cpu26,ppcls,test ;;
    *) echo "PADDLE=$PADDLE: choose 3.3.1 or 2.6.2" >&2; exit 2 ;;
esac
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -m "not slow" -n 2 --dist loadfile "$@"
