"""Files that are whole at every instant: atomic writes, sets of files with one commit point, a lock on a folder.

A set is a prefix such as ``output/latest`` and its endings, ``.pdparams``, ``.pdopt``,
``.pdstates``. Its manifest, ``latest.manifest.json``, holds the checksum of every
file and whatever else belongs to it. New files are written beside the old ones
under a staging name (``latest.pdparams.staged``); replacing the manifest, one atomic
rename, makes them the set. A process that dies before it leaves the old set, one
that dies after it leaves the new one: whoever opens the set next gives the staged
files their names (:func:`recover`).
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import time

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

MANIFEST = ".manifest.json"
STAGED = ".staged"
_ASIDE = ".aside"
_FORMAT = 1
_CHUNK = 1 << 20
_SMALL = 1024  # bytes
_PATIENCE = 3  # seconds to wait for another process
_FULL_OR_CLOSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


class DamagedFileError(ValueError):
    """A file that is not what its manifest says."""


class FolderInUseError(OSError):
    """Another process writes into this folder."""


# --- one file ----------------------------------------------------------------------------


def write_atomically(path, write, mode=None):
    """Let ``write(file)`` write ``path`` under its staging name, which it then replaces in one step.

    Args:
        path (str): the file; its folder is made if it is missing.
        write (callable): gets the open binary file.
        mode (int, optional): permissions; by default those of a new file.

    Raises:
        OSError: naming ``path`` and saying that the old file is kept.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    staged = path + STAGED
    with explain(path), _open_alone(staged, path) as file, clean_up([staged]):
        write(file)
        file.flush()
        os.fsync(file.fileno())
        if mode is not None:
            os.chmod(staged, mode)
        os.replace(staged, path)
    sync_directory(os.path.dirname(path))


def read_lines(path):
    """Yield ``(number, text)`` of the lines of a UTF-8 file that are not empty.

    White space at the ends and a byte-order mark are left out.

    Raises:
        ValueError: naming file and line, for what is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: not UTF-8 text ({error.reason}): {line[:60]!r}"
                ) from error
            if text:
                yield number, text


def read_regular_file(path):
    """The bytes of a file; raises OSError for what is none, such as a pipe, on which reading would wait."""
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise OSError(errno.EINVAL, "not a regular file", path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    with open(path, "rb") as file:
        return file.read()


def sync_directory(directory):
    """Bring the names in ``directory`` to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(directory or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path):
    """Bring the content of ``path`` to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256(path):
    """The checksum of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def explain(path, kept="what was there before is unchanged"):
    """Name ``path`` and what was kept in the message of an error of the file system."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_OR_CLOSED:
            raise OSError(error.errno, f"{os.strerror(error.errno)} while writing {path}; {kept}") from error
        raise


@contextlib.contextmanager
def clean_up(paths):
    """Remove ``paths`` if the block fails."""
    try:
        yield
    except BaseException:
        for path in paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


# --- a set of files ----------------------------------------------------------------------


def commit(prefix, endings, facts=None, kept="what was there before is unchanged"):
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


def _text(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _name_staged(prefix, endings):
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


def _endings(prefix):
    """Endings of the files that the manifest of ``prefix`` lists; none where it cannot be read."""
    try:
        manifest = read_manifest(prefix)
    except DamagedFileError:
        return set()
    return set() if manifest is None else set(manifest["files"])


def recover(prefix, owner=False):
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


def _left_over(prefix):
    """Names of the staged files, and of those put aside, of a set."""
    directory, name = os.path.split(prefix)
    try:
        present = os.listdir(directory or ".")
    except FileNotFoundError:
        return []
    return [n for n in present if n.startswith(f"{name}.") and n.endswith((STAGED, _ASIDE))]


def _recover(prefix, owner):
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


def read_manifest(prefix):
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
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({type(error).__name__}: {error}); if the files beside it are right, remove it"
        ) from error
    return manifest


def has_manifest(prefix):
    """Whether the set ``prefix`` has a manifest."""
    return os.path.exists(prefix + MANIFEST)


def verify(prefix, endings=None, strict=False):
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
    deadline = time.monotonic() + _PATIENCE
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
    what = "its checksum is another" if size == entry["bytes"] else f"it has {size} of {entry['bytes']} bytes"
    raise DamagedFileError(
        f"{path} is damaged: {what} than {prefix}{MANIFEST} says; use another copy "
        "(if you have replaced the file on purpose, remove the manifest)"
    )


def remove(prefix):
    """Remove the set ``prefix``, manifest and all; what remains of it at any instant is not whole."""
    manifest = read_manifest(prefix)
    for ending in reversed(list(manifest["files"]) if manifest else []):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(prefix + ending)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(prefix + MANIFEST)


def _matches(path, entry):
    try:
        return os.path.getsize(path) == entry["bytes"] and sha256(path) == entry["sha256"]
    except FileNotFoundError:
        return False


# --- a folder ----------------------------------------------------------------------------


class FolderLock:
    """Keeps other processes from writing into ``directory``; the system releases it when this one ends.

    Args:
        directory (str): is made if it is missing.
        purpose (str): for the message, such as ``'training'``.
        name (str): of the lock's file, for several kinds of use of one folder.
        patience (float): seconds to try; what a killed process has started ends a moment later.

    Raises:
        FolderInUseError: if another process has it.
    """

    NAME = ".lock"

    def __init__(self, directory, purpose, name=NAME, patience=_PATIENCE):
        with explain(directory):
            os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, name)
        with explain(self.path):
            self.file = _open_alone(self.path, directory, patience)
            self.file.write(f"{purpose}, process {os.getpid()} on {socket.gethostname()}\n".encode())
            self.file.flush()

    def release(self):
        """Let others in."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def _open_alone(path, target, patience=0):
    """``path`` opened for writing, empty, by this process alone; ``target`` is for the message."""
    deadline = time.monotonic() + patience
    while True:
        file = open(path, "a+b")  # noqa: SIM115 (given to the caller)
        try:
            if fcntl is not None:
                _lock(file, target)
        except FolderInUseError:
            file.close()
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)
            continue
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    file.truncate(0)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever had it has just renamed or removed it


def _lock(file, target):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            holder = file.read(200).decode("utf-8", "replace").strip() if target != file.name else ""
            raise FolderInUseError(
                f"{target} is in use by {holder if holder.isprintable() and holder else 'another process'}; "
                "wait for it, or choose another place"
            ) from error
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise
