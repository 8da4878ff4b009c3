"""``teachers.lock``: which commit and which bytes were fetched first, so that nothing else is taken later."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from extract.teacher_files.entry import Download
from store.errors import TeacherError
from store.files import write_atomic
from store.format.records import Record, record_bytes

LOCK_NAME = "teachers.lock"


class Pin(Record):
    """One file at its first fetch.

    Attributes:
        origin: repository or URL, with the revision that pipelines.yaml states.
        revision: the commit; None for a URL.
        sha256: None for an optional file that the commit does not have.
        fetched: date in UTC.
    """

    origin: str
    file: str
    revision: str | None
    nbytes: int | None
    sha256: str | None
    fetched: dt.date


class LockFile(Record):
    """``teachers.lock``, sorted by origin and file."""

    files: tuple[Pin, ...] = ()


class Pins:
    """The lock of one pipelines.yaml. Several fetches may use it at once.

    Args:
        path: it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, item: Download, name: str) -> Pin | None:
        """Return what is recorded of a file."""
        return self._read().get((item.origin, name))

    def commit(self, item: Download) -> str | None:
        """Return the commit at which an item's files are fetched: the stated one, or that of its first file."""
        if item.repo and item.revision and is_commit(item.revision):
            return item.revision
        return next((pin.revision for pin in self._read().values() if pin.origin == item.origin), None)

    def elsewhere(self, item: Download, name: str, digest: str) -> Pin | None:
        """Return the record of a file of the same name and digest that came from another origin or revision."""
        others = (pin for pin in self._read().values() if pin.origin != item.origin)
        return next((pin for pin in others if (pin.file, pin.sha256) == (name, digest)), None)

    def record(self, item: Download, name: str, *, commit: str | None, nbytes: int | None, sha256: str | None) -> None:
        """Record a file; what other fetches recorded meanwhile stays.

        Raises:
            TeacherError: another fetch recorded another commit of the same origin meanwhile.
        """
        today = dt.datetime.now(dt.UTC).date()
        pin = Pin(origin=item.origin, file=name, revision=commit, nbytes=nbytes, sha256=sha256, fetched=today)
        with only_one(self.path):
            pins = self._read()
            other = self.commit(item)
            if other != commit and other is not None:
                raise TeacherError(
                    f"{self.path}: {item.origin} was fetched at {other} by another fetch meanwhile, here at {commit}",
                    hint="run the same command again; it takes the recorded commit",
                )
            pins[item.origin, name] = pin
            files = tuple(pins[key] for key in sorted(pins))
            write_atomic(self.path, record_bytes(LockFile(files=files)))

    def _read(self) -> dict[tuple[str, str], Pin]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            # A fetch that was killed at once leaves an empty file.
            lock = LockFile.model_validate_json(content) if content else LockFile()
        except ValidationError as error:
            if b"\n<<<<<<< " in b"\n" + content:
                raise TeacherError(
                    f"{self.path}: has the conflict markers of a merge",
                    hint="keep the entries of both sides; where both have one of the same file, the one whose sha256 "
                    "is that of the file in use",
                ) from None
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise TeacherError(
                f"{self.path}: not a record of fetched files: {place}{': ' if place else ''}{first['msg']}",
                hint="restore it from version control, or move it away: digests are then recorded anew",
            ) from None
        return {(pin.origin, pin.file): pin for pin in lock.files}


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit, which never changes, and not the name of a branch or tag."""
    return len(revision) == 40 and all(letter in "0123456789abcdef" for letter in revision)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for the same path, which is made if it is missing.

    The file may be replaced or removed in the block. On a file system without locks, nobody is waited for.
    """
    while True:
        with path.open("ab") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file.fileno()):
                yield
                return


def _is_still(path: Path, descriptor: int) -> bool:
    # Who held the lock before may have renamed or removed the file.
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
