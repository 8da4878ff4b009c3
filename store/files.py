"""Writes files so that a kill or a power cut leaves the old file or the new one, and computes digests of files."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from .faults import reached

TEMPORARY_SUFFIX = ".tmp"
"""Files with this suffix are unfinished writes; the holder of the store's lock may delete them."""


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file whole: written beside it, forced to disk, renamed over it."""
    make_folder(path.parent)
    # The process id says who left a file; the token keeps threads apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reached("write.temporary")
        temporary.replace(path)
        reached("write.replaced")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and force the entry of each to disk: a lost entry loses all files below it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary(folder: Path) -> int:
    """Delete what killed writers left in a folder tree and return how many files that were."""
    leftovers = [path for path in folder.rglob(f".*{TEMPORARY_SUFFIX}") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
