"""python tests/mutations.py [FILE ...]: make the mutants of ``tests/mechanisms``; the tests must kill each.

Works on copies of the project. Prints the mutants that survived, and exits with 1 if there are any.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow")


def survives(project, name, mutant):
    """Make one mutant in a copy of the project; what to print if all tests pass."""
    *file, old, new = mutant
    path = project / "paddle_attention" / "layers" / (file[0] if file else f"{name}.py")
    text = path.read_text(encoding="utf-8")
    if old not in text:
        return f"{name}: {path.name} no longer holds {old!r}"
    try:
        path.write_text(text.replace(old, new), encoding="utf-8")
        for tests in (f"tests/mechanisms/{name}.py", "tests/test_torch_weights.py"):
            done = subprocess.run([*PYTEST, tests], cwd=project, capture_output=True, text=True)
            if done.returncode not in (0, 5):
                return None
        return f"{name}: {old!r} -> {new!r} survived"
    finally:
        path.write_text(text, encoding="utf-8")


def check(name, mutants):
    """The survivors of one file."""
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory) / "project"
        ignore = shutil.ignore_patterns(".git", ".venv*", ".cache", "output", "__pycache__")
        shutil.copytree(ROOT, project, ignore=ignore)
        survivors = [text for mutant in mutants if (text := survives(project, name, mutant))]
    print(f"{name}: {len(mutants) - len(survivors)} of {len(mutants)} mutants killed", flush=True)
    return survivors


def main(names):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    files = importlib.import_module("mechanisms").all_files()
    mutants = {name: getattr(files[name], "MUTANTS", []) for name in names or files}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        survivors = [text for found in pool.map(check, mutants, mutants.values()) for text in found]
    total = sum(map(len, mutants.values()))
    print(f"{total - len(survivors)} of {total} mutants killed", *survivors, sep="\n")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
