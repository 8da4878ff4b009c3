"""Keeps the SHA-256 of large files in ``digests.json`` beside them, so that a plan does not read gigabytes again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from pydantic import ValidationError

from store.files import sha256_file, write_atomic
from store.format.records import Record, record_bytes

log = logging.getLogger(__name__)

DIGESTS_NAME = "digests.json"

KEPT_FROM_BYTES = 1 << 20
"""The digest of a smaller file is computed each time, in milliseconds."""

SETTLED_NS = 2_000_000_000
"""Nanoseconds after a change in which a file system with coarse times may give a second change the same time."""


class KeptDigest(Record):
    """The digest of a file, and what its directory entry said when it was computed.

    Attributes:
        mtime_ns: time of the last change of its content, which programs that copy files set at will.
        ctime_ns: time of the last change of its content or its entry, which only the system sets.
    """

    nbytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


class KeptDigests(Record):
    """``digests.json``: digests of the files of a folder, by name."""

    files: dict[str, KeptDigest] = {}


_known: dict[Path, KeptDigest] = {}
"""Digests that this process computed. They count like those on disk, also where a folder cannot be written."""

_keeps: ContextVar[bool] = ContextVar("keeps", default=True)
"""False if no digests are written beside their files."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    The kept one counts if size, both times and inode are what they were; else the file is read. In a folder that
    cannot be written, each process reads it once.
    """
    found = path.stat()
    if found.st_size < KEPT_FROM_BYTES:
        return sha256_file(path)
    if kept := _found(path):
        return kept.sha256
    before, began = _kept(path, ""), time.time_ns()
    digest = sha256_file(path)
    # After a clock went back, a time of the future could be given a second time.
    settled = max(before.mtime_ns, before.ctime_ns) + SETTLED_NS < began
    if settled and _kept(path, "") == before:
        _known[path] = _kept(path, digest)
        present = {name: one for name, one in _read(path.parent).items() if (path.parent / name).is_file()}
        _write(path.parent, present | {path.name: _known[path]})
    return digest


def unread_bytes(folder: Path) -> int:
    """Return the bytes that are to be read for the digests of all files of a folder."""
    paths = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return sum(path.stat().st_size for path in paths if _found(path) is None)


@contextlib.contextmanager
def keeping_none() -> Iterator[None]:
    """Let `file_digest` write nothing."""
    token = _keeps.set(False)
    try:
        yield
    finally:
        _keeps.reset(token)


def _found(path: Path) -> KeptDigest | None:
    kept = _known.get(path) or _read(path.parent).get(path.name)
    return kept if kept and kept == _kept(path, kept.sha256) else None


def _kept(path: Path, digest: str) -> KeptDigest:
    found = path.stat()
    return KeptDigest(
        nbytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        inode=found.st_ino,
        sha256=digest,
    )


def _read(folder: Path) -> dict[str, KeptDigest]:
    try:
        return KeptDigests.model_validate_json((folder / DIGESTS_NAME).read_bytes()).files
    except (OSError, ValidationError):
        return {}


def _write(folder: Path, files: dict[str, KeptDigest]) -> None:
    if not _keeps.get():
        return
    try:
        write_atomic(folder / DIGESTS_NAME, record_bytes(KeptDigests(files=dict(sorted(files.items())))))
    except OSError as error:
        log.debug("%s: digests are not kept: %s", folder, error)
