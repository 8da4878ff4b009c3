"""A location that is a folder on a file system."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import LocationError
from store.faults import reached
from store.files import sync_folder, write_atomic

from .location import Location

if TYPE_CHECKING:
    import zarr


class Folder(Location):
    """A folder on a file system, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.uri = str(self.path)

    def read(self, key: str) -> bytes:
        """Return a file's content."""
        with self._access(key):
            return (self.path / key).read_bytes()

    def read_part(self, key: str, offset: int, nbytes: int) -> bytes:
        """Return a part of a file's content."""
        with self._access(key), (self.path / key).open("rb") as file:
            file.seek(offset)
            return file.read(nbytes)

    def write(self, key: str, data: bytes) -> None:
        """Write beside it, force to disk, rename over it."""
        with self._access(key):
            write_atomic(self.path / key, data)

    def create(self, key: str, data: bytes) -> None:
        """Write a file that must not be there yet."""
        path = self.path / key
        with self._access(key):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._access(key, FileExistsError), path.open("xb") as file:
            file.write(data)

    def size(self, key: str) -> int | None:
        """Return a file's bytes."""
        with self._access(key):
            path = self.path / key
            return path.stat().st_size if path.is_file() else None

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """Walk the folder; names that begin with a dot are unfinished writes."""
        found: list[tuple[str, int]] = []
        folders = [prefix.strip("/")]
        while folders:
            folder = folders.pop()
            start = f"{folder}/" if folder else ""
            # scandir and not walk: listing many receipts takes most of the time of planning.
            with contextlib.suppress(OSError), os.scandir(self.path / folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(start + entry.name)
                    elif not entry.name.startswith(".") and not entry.is_dir():
                        # Another process may have renamed or deleted it since the folder was read.
                        with contextlib.suppress(FileNotFoundError):
                            found.append((start + entry.name, entry.stat().st_size))
        return sorted(found)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete files and the folders that this leaves empty, and force that to disk."""
        changed: set[Path] = set()
        for key in keys:
            path = self.path / key
            with self._access(key):
                path.unlink(missing_ok=True)
            reached("delete.done")
            for folder in path.parents:
                changed.add(folder)
                if folder == self.path:
                    break
                try:
                    folder.rmdir()
                except OSError:  # not empty, or gone already
                    break
        # A receipt that was deleted must not come back after a power cut.
        for folder in changed:
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)

    def zarr_group(self, folder: str) -> zarr.Group:
        """Open a folder as a Zarr group."""
        import zarr
        from zarr.storage import LocalStore

        store = LocalStore(self.path / folder, read_only=True)
        with self._access(folder):
            return zarr.open_group(store, mode="r")

    @contextlib.contextmanager
    def _access(self, key: str, *passed_on: type[OSError]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, (FileNotFoundError, *passed_on)):
                raise
            raise LocationError(
                f"{self.path / key}: {error.strerror or error}",
                hint="what was committed before stays; mend it and run the same command again",
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.path,)
