"""Fetch a PaddleClas source tree of a commit that is known to work."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

SOURCE = "https://github.com/PaddlePaddle/PaddleClas.git"
COMMIT = "d178931fca432204e6b7422bac4f92e09ff22fa4"  # of 2024-10-18: what the tests run with
# What its tools need; the rest are documents, pictures and demo applications.
_PARTS = ("/ppcls/", "/tools/", "/deploy/python/", "/deploy/utils/", "/deploy/configs/", "/*.py", "/*.txt")
_LEFT_OUT = ("!/deploy/utils/simfang.ttf",)  # a font of 10 MB
_NEEDED = ("ppcls/arch/__init__.py", "ppcls/engine/engine.py", "ppcls/configs", "tools/train.py")


def get_paddleclas(directory: str, source: str = SOURCE, commit: str = COMMIT) -> str:
    """Fetch PaddleClas with git into ``directory``, whole or not at all; returns its absolute path.

    Args:
        directory (str): where to; it must not exist yet, or be empty.
        source (str): a URL, or the path of a local mirror.
        commit (str): 40 hexadecimal digits, or the name of a branch or tag.

    Raises:
        ValueError: if ``directory`` holds something else, or the commit has no PaddleClas in it.
        OSError: if git is missing or fails; nothing is left behind then.
    """
    directory = os.path.abspath(directory)
    if os.path.isdir(directory) and os.listdir(directory):
        raise ValueError(f"{directory} is not empty; name a folder that does not exist yet")
    if shutil.which("git") is None:
        raise OSError(
            f"git is not installed; install it, or unpack {source} yourself and set PADDLECLAS_HOME"
        )
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    workdir = tempfile.mkdtemp(prefix=f".{os.path.basename(directory)}.", dir=os.path.dirname(directory))
    try:
        _git(None, "clone", "--quiet", "--no-checkout", "--filter=blob:none", source, workdir)
        _git(workdir, "sparse-checkout", "set", "--no-cone", *_PARTS, *_LEFT_OUT)
        _git(workdir, "checkout", "--quiet", "--detach", commit)
        missing = [name for name in _NEEDED if not os.path.exists(os.path.join(workdir, name))]
        if missing:
            raise ValueError(f"{source} at {commit} is no PaddleClas: it has no {missing[0]}")
        if os.path.isdir(directory):
            os.rmdir(directory)
        os.rename(workdir, directory)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return directory


def _git(folder: str | None, *arguments: str) -> None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # nothing waits for a password
    command = ["git", *(("-C", folder) if folder else ()), *arguments]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(f"git {arguments[0]} failed: {lines[-1] if lines else f'status {done.returncode}'}")
