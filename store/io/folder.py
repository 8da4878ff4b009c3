"""A location that is a folder on a file system."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from store.errors import LocationError, ObjectChangedError
from store.faults import reached
from store.files import TEMPORARY_SUFFIX, create_atomic, move_file, sync_folder, tidy, write_atomic

from .location import Location, Stat


class Folder(Location):
    """A folder on a file system, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = tidy(path)
        self.uri = str(self.path)

    def read(self, key: str) -> bytes:
        """Return a file's content."""
        with self._access(key), open(self.path / key, "rb", opener=_open_regular) as file:
            return file.read()

    def read_part(self, key: str, offset: int, nbytes: int, *, stamp: str | None = None) -> bytes:
        """Return a part of a file's content."""
        with self._access(key), open(self.path / key, "rb", opener=_open_regular) as file:
            if stamp is not None and stamp_of(os.fstat(file.fileno())) != stamp:
                raise ObjectChangedError(f"{self.path / key}: the file was replaced since it was looked at")
            file.seek(offset)
            return file.read(nbytes)

    def write(self, key: str, data: bytes | Path) -> None:
        """Write beside it, force to disk, rename over it."""
        with self._access(key):
            write_atomic(self.path / key, data)

    def create(self, key: str, data: bytes) -> None:
        """Write beside it, force to disk, link to its name, which fails if that is taken."""
        with self._access(key, FileExistsError):
            create_atomic(self.path / key, data)

    def replace(self, key: str, data: bytes, *, stamp: str) -> None:
        """Look, then write."""
        found = self.stat(key)
        if found is None or found.stamp != stamp:
            raise ObjectChangedError(f"{self.path / key}: the file was replaced since it was looked at")
        self.write(key, data)

    def move(self, source: str, target: str) -> None:
        """Rename a file over another one; the folders that this leaves empty go too."""
        with self._access(source):
            move_file(self.path / source, self.path / target)
        self._remove_empty({self.path / source})

    def stat(self, key: str) -> Stat | None:
        """Ask the file system; a folder is no object."""
        try:
            with self._access(key):
                found = (self.path / key).stat()
        except FileNotFoundError:
            return None
        return Stat(found.st_size, stamp_of(found), found.st_mtime) if S_ISREG(found.st_mode) else None

    def below(self, prefix: str) -> Folder:
        """Return a folder below this one."""
        return Folder(self.path / prefix) if prefix else self

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """Walk the folder and where links lead; names that begin with a dot are unfinished writes."""
        found: list[tuple[str, int]] = []
        for key, entry in self._walk(prefix.strip("/")):
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError), self._access(key):
                    found.append((key, entry.stat().st_size))
        return sorted(found)

    def delete_below(self, folder: str) -> None:
        """Delete every file below a folder, also what killed writers left there."""
        self.delete([*(key for key, _ in self.list(folder)), *self.unfinished(folder)])

    def unfinished(self, folder: str = "") -> Sequence[str]:
        """Return the keys of temporary files, which belong to programs that write now or were killed."""
        names = ((key, entry.name) for key, entry in self._walk(folder))
        return sorted(key for key, name in names if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX))

    def _walk(self, start: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folders = [start]
        while folders:
            folder = folders.pop()
            # scandir and not walk: listing many receipts takes most of the time of planning.
            # What another process deletes meanwhile is not there. A link loop ends with an error of the system.
            entries: Sequence[tuple[os.DirEntry[str], bool]] = ()
            with contextlib.suppress(FileNotFoundError), self._access(folder), os.scandir(self.path / folder) as opened:
                entries = [(entry, entry.is_dir()) for entry in opened]
            for entry, is_folder in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if is_folder:
                    folders.append(key)
                else:
                    yield key, entry

    def delete(self, keys: Sequence[str]) -> None:
        """Delete files and the folders that this leaves empty, and force that to disk."""
        for key in keys:
            with self._access(key):
                (self.path / key).unlink(missing_ok=True)
            reached("delete.done")
        self._remove_empty({self.path / key for key in keys})

    def _remove_empty(self, gone: set[Path]) -> None:
        """Remove the folders that files which are gone left empty; force to disk that the files are gone."""
        changed: set[Path] = set()
        for parent in {path.parent for path in gone}:
            for folder in (parent, *parent.parents):
                changed.add(folder)
                if folder == self.path:
                    break
                try:
                    folder.rmdir()
                except OSError:  # not empty, or gone already
                    break
        # A receipt that was deleted must not come back after a power cut.
        for folder in changed:
            with contextlib.suppress(FileNotFoundError), self._access(str(folder)):
                sync_folder(folder)

    @contextlib.contextmanager
    def _access(self, key: str, *passed_on: type[OSError]) -> Iterator[None]:
        try:
            yield
        except passed_on:
            raise
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                self._check_links(key)
                raise
            raise LocationError(
                f"{self.path / key}: {error.strerror or error}",
                hint="what was committed before stays; mend it and run the same command again",
            ) from error

    def _check_links(self, key: str) -> None:
        """Refuse a link to what is not there: it may lie on a disk that is not mounted, which says nothing of it."""
        path = self.path / key
        for step in (path, *path.parents):
            if step.exists():
                return
            if step.is_symlink():
                raise LocationError(
                    f"{step}: a link to what is not there: {step.readlink()}",
                    hint="if it leads to another disk, mount that; nothing was changed",
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.path,)


def _open_regular(path: str, flags: int) -> int:
    """Open a file, and refuse what is none: a pipe that nobody writes to would be waited for without end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EISDIR if S_ISDIR(mode) else errno.EINVAL, "a folder" if S_ISDIR(mode) else "no regular file")


def stamp_of(found: os.stat_result) -> str:
    """Return the stamp of a file (`Stat.stamp`)."""
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
