"""Files that are whole at every instant: alone, as a set, and in a folder of one owner."""

from .atomic import (
    STAGED,
    clean_up,
    read_lines,
    read_regular_file,
    sha256,
    sync_directory,
    sync_file,
    write_atomically,
)
from .errors import DamagedFileError, FolderInUseError, explain
from .lock import FolderLock
from .results import read_results, write_results
from .sets import MANIFEST, commit, has_manifest, read_manifest, recover, remove, verify

__all__ = [
    "MANIFEST",
    "STAGED",
    "DamagedFileError",
    "FolderInUseError",
    "FolderLock",
    "clean_up",
    "commit",
    "explain",
    "has_manifest",
    "read_lines",
    "read_manifest",
    "read_regular_file",
    "read_results",
    "recover",
    "remove",
    "sha256",
    "sync_directory",
    "sync_file",
    "verify",
    "write_atomically",
    "write_results",
]
