# Sourced by the other scripts: source tools/setup_venv.sh DIRECTORY EXTRAS
# Makes the virtual environment DIRECTORY with this project and EXTRAS, once, and activates it.
if [ ! -f "$1/.ready" ] || [ setup.py -nt "$1/.ready" ]; then
    python=${PYTHON:-$(command -v python3.11 || command -v python3.10 || command -v python3)}
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' || {
        echo "needs Python 3.10 or 3.11 (paddleclas pins NumPy 1.24); set PYTHON=/path/to/python3.11" >&2
        exit 2
    }
    "$python" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$2]"
    touch "$1/.ready"
fi
# shellcheck disable=SC1091
source "$1/bin/activate"
