"""A folder or a prefix of an object storage, behind the few operations that stores and corpora need."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import LocationError

if TYPE_CHECKING:
    import zarr

REMOTE_SCHEMES = ("s3", "gs", "az", "memory", "http", "https")
"""URL schemes that obstore opens; ``file`` is a folder, and http is for reading only."""


class Location(ABC):
    """A folder of objects named by keys: relative paths with ``/``.

    Safe for use from several threads. It can be sent to another process, which then uses its own credentials.

    Attributes:
        uri: absolute path or URL, without a ``/`` at its end.
    """

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an object.

        Raises:
            FileNotFoundError: there is none.
            LocationError: the storage does not answer or refuses.
        """

    @abstractmethod
    def read_part(self, key: str, offset: int, nbytes: int) -> bytes:
        """Return ``nbytes`` bytes of an object from ``offset`` on, fewer where it ends before."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Replace an object whole: after a kill or a power cut the old one is there or the new one."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not be there yet.

        Raises:
            FileExistsError: it is.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return an object's bytes, None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object below a folder, sorted; unfinished local writes are left out."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; ignore those that do not exist."""

    @abstractmethod
    def zarr_group(self, folder: str) -> zarr.Group:
        """Open a folder as a Zarr group for reading.

        Raises:
            FileNotFoundError: there is none.
        """

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.size(key) is not None

    def delete_below(self, folder: str) -> None:
        """Delete every object below a folder."""
        self.delete([key for key, _ in self.list(folder)])

    def show(self, key: str) -> str:
        """Return an object's full name, for messages."""
        return f"{self.uri}/{key}"

    def __str__(self) -> str:
        return self.uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)


def locate(where: str | os.PathLike[str] | Location) -> Location:
    """Return the location of a path or URL.

    Raises:
        LocationError: a scheme that is not known, or a URL that cannot be one.
    """
    from .folder import Folder
    from .remote import Remote

    if isinstance(where, Location):
        return where
    text = os.fspath(where)
    scheme, found, rest = text.partition("://")
    if not found:
        return Folder(Path(text))
    if scheme == "file":
        return Folder(Path(rest))
    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in ("file", *REMOTE_SCHEMES))
        raise LocationError(f"{text}: unknown scheme {scheme!r}; expected a path or one of {known}")
    return Remote(text)


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return "://" in text
