"""Where a store or a corpus lies: a folder, or a prefix of an object storage, behind the few operations they need."""

from __future__ import annotations

import contextlib
import functools
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import LocationError
from store.files import sync_folder, write_atomic

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore as RemoteStore
    from obstore.store import RetryConfig

REMOTE_SCHEMES = ("s3", "gs", "az", "memory", "http", "https")
"""URL schemes that obstore opens; ``file`` is a folder, and http is for reading only."""


RETRY: RetryConfig = {
    "max_retries": 1000,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2},
}
"""How long a storage that is away is waited for: by time. obstore's own ten tries are over in two seconds."""


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
        """Delete objects; those that are not there are passed over."""

    @abstractmethod
    def zarr_group(self, folder: str) -> zarr.Group:
        """Open a folder as a Zarr group for reading.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def under(self, folder: str) -> Location:
        """Return a folder of this one."""

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
        """Return the uri."""
        return self.uri

    def __eq__(self, other: object) -> bool:
        """Two locations are the same where their uris are."""
        return isinstance(other, Location) and other.uri == self.uri

    def __hash__(self) -> int:
        """Go with equality."""
        return hash(self.uri)


def locate(where: str | os.PathLike[str] | Location) -> Location:
    """Return the location of a path or URL.

    Raises:
        LocationError: a scheme that is not known, or a URL that cannot be one.
    """
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


class Folder(Location):
    """A folder on a file system.

    Args:
        path: the folder; it need not be there yet.
    """

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
            # scandir and not walk: a listing of many receipts is most of what planning takes.
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
            for folder in path.parents:
                changed.add(folder)
                if folder == self.path:
                    break
                try:
                    folder.rmdir()
                except OSError:  # not empty, or gone already
                    break
        # What is written next may rely on it, and a receipt must not come back after a power cut.
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

    def under(self, folder: str) -> Folder:
        """Return a folder of this one."""
        return Folder(self.path / folder)

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
        """Travel as the path."""
        return Folder, (self.path,)


@functools.cache
def _client(root: str, _process: int) -> RemoteStore:
    """Return the process's client of a bucket: opening one costs a TLS handshake, and none survives a fork."""
    from obstore.exceptions import BaseError
    from obstore.store import MemoryStore, from_url

    if root.startswith("memory:"):
        return MemoryStore()
    try:
        if root.startswith("http:"):
            return from_url(root, client_options={"allow_http": True}, retry_config=RETRY)
        return from_url(root, retry_config=RETRY)
    except (BaseError, ValueError) as error:
        raise LocationError(f"{root}: not a URL that can be opened: {error}") from error


class Remote(Location):
    """A prefix of an object storage, through obstore; credentials come from the usual environment.

    Args:
        url: e.g. ``s3://bucket/prefix``.

    Attributes:
        requests: how many of each kind were made through this object.
    """

    def __init__(self, url: str) -> None:
        self.uri = url.rstrip("/")
        scheme, _, rest = self.uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        self._root, self._prefix = f"{scheme}://{bucket}", f"{prefix}/" if prefix else ""
        self.requests: Counter[str] = Counter()

    @property
    def _store(self) -> RemoteStore:
        return _client(self._root, os.getpid())

    def read(self, key: str) -> bytes:
        """GET an object."""
        with self._request("get", key):
            return bytes(self._store.get(self._prefix + key).bytes())

    def read_part(self, key: str, offset: int, nbytes: int) -> bytes:
        """GET a range of an object."""
        if nbytes == 0:
            return b""
        with self._request("get", key):
            return bytes(self._store.get_range(self._prefix + key, start=offset, length=nbytes))

    def write(self, key: str, data: bytes) -> None:
        """PUT an object in one request, which storage makes atomic."""
        with self._request("put", key):
            self._store.put(self._prefix + key, data, use_multipart=False)

    def create(self, key: str, data: bytes) -> None:
        """PUT an object on the condition that there is none."""
        from obstore.exceptions import AlreadyExistsError

        with self._request("put", key):
            try:
                self._store.put(self._prefix + key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                raise FileExistsError(self.show(key)) from error

    def size(self, key: str) -> int | None:
        """HEAD an object."""
        try:
            with self._request("head", key):
                return int(self._store.head(self._prefix + key)["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """List objects, a thousand per request."""
        found: list[tuple[str, int]] = []
        with self._request("list", prefix):
            for batch in self._store.list(self._prefix + prefix or None, chunk_size=1000):
                found += [(str(meta["path"])[len(self._prefix) :], int(meta["size"])) for meta in batch]
        return sorted(found)

    def delete(self, keys: Sequence[str]) -> None:
        """DELETE objects one by one, on threads: not every storage has a request for many."""

        def delete(key: str) -> None:
            with self._request("delete", key), contextlib.suppress(FileNotFoundError):
                self._store.delete(self._prefix + key)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(delete, keys))

    def zarr_group(self, folder: str) -> zarr.Group:
        """Open a prefix as a Zarr group."""
        import zarr
        from zarr.storage import ObjectStore

        store = ObjectStore(self._store, read_only=True)
        with self._request("zarr", folder):
            return zarr.open_group(store, path=self._prefix + folder, mode="r")

    def under(self, folder: str) -> Remote:
        """Return a prefix of this one."""
        return Remote(f"{self.uri}/{folder}")

    @contextlib.contextmanager
    def _request(self, kind: str, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        self.requests[kind] += 1
        try:
            yield
        except FileNotFoundError:
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise LocationError(
                f"{self.show(key)}: the storage refuses these credentials",
                hint="they come from the environment, e.g. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
            ) from error
        except BaseError as error:
            raise LocationError(
                f"{self.show(key)}: the storage failed: {str(error).splitlines()[0]}",
                hint="what was committed before stays; when the storage answers, run the same command again",
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the URL."""
        return Remote, (self.uri,)
