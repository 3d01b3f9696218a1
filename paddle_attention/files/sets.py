"""Files that are whole at every instant: atomic writes, sets of files with one commit point, a lock on a folder.

A set is a prefix such as ``output/latest`` and its endings, ``.pdparams``, ``.pdopt``,
``.pdstates``. Its manifest, ``latest.manifest.json``, holds the checksum of every
file and whatever else belongs to it. New files are written beside the old ones
under a staging name (``latest.pdparams.staged``); replacing the manifest, one atomic
rename, makes them the set. A process that dies before it leaves the old set, one
that dies after it leaves the new one: whoever opens the set next gives the staged
files their names (:func:`recover`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .atomic import STAGED, read_regular_file, sha256, sync_directory, sync_file
from .errors import DamagedFileError, explain
from .lock import PATIENCE, FolderLock

MANIFEST = ".manifest.json"
_ASIDE = ".aside"
_FORMAT = 1
_SMALL = 1024  # bytes


def commit(
    prefix: str,
    endings: Sequence[str],
    facts: Mapping[str, Any] | None = None,
    kept: str = "what was there before is unchanged",
) -> None:
    """Make the staged files ``prefix + ending + '.staged'`` the set ``prefix``, all in one instant.

    Args:
        prefix (str): the set's path without ending.
        endings (sequence of str): in the order in which the files get their names.
            Where there are several, the last file is taken away first, so that a
            program that does not know manifests never finds files of two sets.
        facts (dict, optional): further entries of the manifest, anything JSON can hold.
        kept (str): for the message of an error: what is there if this fails.

    Raises:
        OSError: naming the file; the old set is then kept, and nothing staged is left.
    """
    staged = [prefix + ending + STAGED for ending in endings]
    manifest, text = prefix + MANIFEST, None
    try:
        with explain(manifest, kept):
            files = {}
            for ending, path in zip(endings, staged, strict=True):
                sync_file(path)
                files[ending] = {"bytes": os.path.getsize(path), "sha256": sha256(path)}
            text = json.dumps({"format": _FORMAT, **(facts or {}), "files": files}, indent=1) + "\n"
            with open(manifest + STAGED, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(os.path.dirname(prefix))
            obsolete = _endings(prefix) - set(endings)
            os.replace(manifest + STAGED, manifest)  # the commit point
    except BaseException:
        if text is None or _text(manifest) != text:  # not reached; else these files are the set
            for path in (*staged, manifest + STAGED):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        raise
    sync_directory(os.path.dirname(prefix))
    for ending in obsolete:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(prefix + ending)
    _name_staged(prefix, endings)


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _name_staged(prefix: str, endings: Sequence[str]) -> None:
    """Give the staged files their names; a reader may be doing the same in :func:`recover`."""
    last = prefix + endings[-1]
    if len(endings) > 1:
        with contextlib.suppress(FileNotFoundError):
            os.replace(last, last + _ASIDE)
    for ending in endings:
        with contextlib.suppress(FileNotFoundError):
            os.replace(prefix + ending + STAGED, prefix + ending)
    with contextlib.suppress(FileNotFoundError):
        if os.path.exists(last):
            os.unlink(last + _ASIDE)
        else:  # a reader was first, and this put aside the new file
            os.replace(last + _ASIDE, last)
    sync_directory(os.path.dirname(prefix))


def _endings(prefix: str) -> set[str]:
    """Endings of the files that the manifest of ``prefix`` lists; none where it cannot be read."""
    try:
        manifest = read_manifest(prefix)
    except DamagedFileError:
        return set()
    return set() if manifest is None else set(manifest["files"])


def recover(prefix: str, owner: bool = False) -> None:
    """Finish a :func:`commit` of ``prefix`` that was interrupted after its commit point.

    Args:
        prefix (str): the set's path without ending.
        owner (bool): nobody else writes here: also remove what an interrupted write has left.
            Otherwise nothing is touched while a process that writes here holds the folder.

    Raises:
        DamagedFileError: if the manifest cannot be read.
    """
    if not _left_over(prefix):
        return
    if owner:
        _recover(prefix, owner)
        return
    with contextlib.ExitStack() as locks, contextlib.suppress(OSError):  # in use, or read-only
        directory, name = os.path.split(prefix)
        for lock in (FolderLock.NAME, f".{name}.lock"):
            locks.enter_context(FolderLock(directory or ".", "recovering", lock, patience=0))
        _recover(prefix, owner)


def _left_over(prefix: str) -> list[str]:
    """Names of the staged files, and of those put aside, of a set."""
    directory, name = os.path.split(prefix)
    try:
        present = os.listdir(directory or ".")
    except FileNotFoundError:
        return []
    return [n for n in present if n.startswith(f"{name}.") and n.endswith((STAGED, _ASIDE))]


def _recover(prefix: str, owner: bool) -> None:
    directory = os.path.dirname(prefix)
    files = (read_manifest(prefix) or {"files": {}})["files"]
    for ending, entry in files.items():
        if not _matches(prefix + ending, entry):
            for kind in (STAGED, _ASIDE):
                if _matches(prefix + ending + kind, entry):
                    os.replace(prefix + ending + kind, prefix + ending)
                    break
    for path in (os.path.join(directory, n) for n in _left_over(prefix)) if owner else ():
        if os.path.isfile(path):
            os.unlink(path)


def read_manifest(prefix: str) -> dict[str, Any] | None:
    """The manifest of the set ``prefix`` as a dict, or None where there is none.

    Raises:
        DamagedFileError: if it cannot be read.
    """
    path = prefix + MANIFEST
    try:
        manifest = json.loads(read_regular_file(path))
        for ending, entry in manifest["files"].items():
            plain = re.fullmatch(r"(\.\w+)+", ending)  # no path to anywhere else
            if not plain or not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
                raise TypeError(f"its entry {ending!r} is of another form")
    except FileNotFoundError:
        if os.path.islink(path):
            raise DamagedFileError(
                f"{path} is a link to nowhere; put the manifest there, or remove it"
            ) from None
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({type(error).__name__}: {error}); if the files beside it are right, remove it"
        ) from error
    return manifest


def has_manifest(prefix: str) -> bool:
    """Whether the set ``prefix`` has a manifest."""
    return os.path.lexists(prefix + MANIFEST)


def verify(prefix: str, endings: Sequence[str] | None = None, strict: bool = False) -> dict[str, Any] | None:
    """Compare the files of the set ``prefix`` with its manifest.

    Args:
        prefix (str): the set's path without ending.
        endings (sequence of str, optional): only these files. Default: all.
        strict (bool): the set belongs to this library alone; no other program writes it anew.

    Returns:
        The manifest; None where there is none, and where all files are newer than it and no
        one of some size is its: then another program, which knows no manifests, has written
        the set anew.

    Raises:
        DamagedFileError: if a file is missing or has another content.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        recover(prefix)
        manifest = read_manifest(prefix)
        if manifest is None:
            return None
        files = manifest["files"]
        wanted = [e for e in files if endings is None or e in endings]
        wrong = [e for e in wanted if not _matches(prefix + e, files[e])]
        if not wrong:
            return manifest
        if not _left_over(prefix) or time.monotonic() > deadline:
            break
        time.sleep(0.05)  # its writer is giving the files their names
    other = [e for e in files if os.path.exists(prefix + e) and not _matches(prefix + e, files[e])]
    large = {e for e in files if files[e]["bytes"] > _SMALL}  # two small files may be equal by chance
    written = os.stat(prefix + MANIFEST).st_mtime_ns
    newer = all(os.stat(prefix + e).st_mtime_ns > written for e in files if os.path.exists(prefix + e))
    if not strict and len(other) > 1 and large <= set(other) and newer:
        return None
    path, entry = prefix + wrong[0], files[wrong[0]]
    if not os.path.exists(path):
        raise DamagedFileError(f"{path} is missing, which {prefix}{MANIFEST} lists")
    size = os.path.getsize(path)
    what = (
        "its checksum is another"
        if size == entry["bytes"]
        else f"it has {size} of {entry['bytes']} bytes, other"
    )
    raise DamagedFileError(
        f"{path} is damaged: {what} than {prefix}{MANIFEST} says; use another copy "
        "(if you have replaced the file on purpose, remove the manifest)"
    )


def remove(prefix: str) -> None:
    """Remove the set ``prefix``, manifest and all; what remains of it at any instant is not whole."""
    manifest = read_manifest(prefix)
    for ending in reversed(list(manifest["files"]) if manifest else []):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(prefix + ending)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(prefix + MANIFEST)


def _matches(path: str, entry: dict[str, Any]) -> bool:
    try:
        return os.path.getsize(path) == entry["bytes"] and sha256(path) == entry["sha256"]
    except FileNotFoundError:
        return False
