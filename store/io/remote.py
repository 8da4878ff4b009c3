"""A location that is a prefix of an object storage, through obstore."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from store.errors import FetchError, LocationError, ObjectChangedError
from store.faults import reached

from .location import Location, Stat, login_of, split_query

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import ClientConfig, MemoryStore, RetryConfig
    from obstore.store import ObjectStore as RemoteStore

RETRY_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 180, 0.2, 10

RETRY: RetryConfig = {
    "max_retries": 1000,
    "retry_timeout": timedelta(seconds=RETRY_S),
    "backoff": {
        "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
        "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
        "base": 2,
    },
}
"""Requests to a storage that does not answer are repeated for three minutes; obstore's ten tries take two seconds."""

_REFUSED = re.compile(r"status code: 4(?!08|29)")
"""In the text of an error: a storage that answers so will answer so again."""

HTTP = ("http", "https")

URL_SIGNS = "/~!$&'()*+,;=:@"
"""Characters that stand for themselves in the path of a URL, beside letters, digits and ``_.-``."""

T = TypeVar("T")


@functools.cache
def _memory(_bucket: str, _process: int) -> MemoryStore:
    from obstore.store import MemoryStore

    return MemoryStore()


@functools.lru_cache(256)
def _client(root: str, query: str, _process: int) -> RemoteStore:
    """Return the process's client of a bucket: opening one costs a TLS handshake, and none survives a fork.

    Args:
        query: of a URL of HTTP, which obstore sends with every request of a client.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme = root.partition("://")[0]
    headers = login_of(root) if scheme in HTTP else {}
    options: ClientConfig = {"allow_http": scheme == "http", "default_headers": headers}
    try:
        if scheme in HTTP:
            return from_url(root + query, client_options=options, retry_config=RETRY)
        return from_url(root, retry_config=RETRY)
    except (BaseError, ValueError) as error:
        raise LocationError(f"{root}: not a URL that can be opened: {error}") from error


class Remote(Location):
    """A prefix of an object storage, through obstore; credentials come from the usual environment.

    Keys at HTTP are pieces of a URL: with a query if need be, other characters than those of a URL as ``%20``.

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
        self._http = scheme in HTTP
        self.requests: Counter[str] = Counter()

    @property
    def _store(self) -> RemoteStore:
        return self._at("")[0]

    def _at(self, key: str) -> tuple[RemoteStore, str]:
        """Return the client for an object, and what obstore calls the object."""
        if self._root.startswith("memory:"):
            return _memory(self._root, os.getpid()), self._prefix + key
        path, query = split_query(self._prefix + key) if self._http else (self._prefix + key, "")
        return _client(self._root, query, os.getpid()), unquote(path) if self._http else path

    def read(self, key: str) -> bytes:
        """GET an object."""
        with self._request("get", key):
            store, path = self._at(key)
            return bytes(store.get(path).bytes())

    def read_part(self, key: str, offset: int, nbytes: int, *, stamp: str | None = None) -> bytes:
        """GET a range of an object; what the answer says of it is compared, because not every storage has If-Match."""
        if nbytes == 0:
            return b""
        with self._request("get", key):
            store, path = self._at(key)
            if stamp is None:
                return bytes(store.get_range(path, start=offset, length=nbytes))
            answer = store.get(path, options={"range": (offset, offset + nbytes)})
            if _stamp(answer.meta) != stamp:
                raise ObjectChangedError(f"{self.show(key)}: the object was replaced since it was looked at")
            return bytes(answer.bytes())

    def write(self, key: str, data: bytes | Path) -> None:
        """PUT an object in one request, or a file in several parts; storage makes both atomic."""
        with self._request("put", key):
            self._store.put(self._prefix + key, data, use_multipart=isinstance(data, Path))

    def create(self, key: str, data: bytes) -> None:
        """PUT an object on the condition that there is none."""
        from obstore.exceptions import AlreadyExistsError

        def put() -> None:
            try:
                self._store.put(self._prefix + key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                if self.size(key) != len(data) or self.read(key) != data:
                    raise FileExistsError(self.show(key)) from error

        with self._request("put", key):
            # obstore repeats only what may be done twice.
            _again(put)

    def replace(self, key: str, data: bytes, *, stamp: str) -> None:
        """PUT an object with If-Match; a storage that ignores this is left with the look before."""
        from obstore.exceptions import NotFoundError, PreconditionError

        changed = f"{self.show(key)}: the object was replaced since it was looked at"
        with self._request("put", key):
            try:
                found = self._store.head(self._prefix + key)
                if _stamp(found) != stamp:
                    raise ObjectChangedError(changed)
                version: UpdateVersion = {}
                if found["e_tag"]:
                    version["e_tag"] = found["e_tag"]
                if found["version"]:
                    version["version"] = found["version"]
                self._store.put(self._prefix + key, data, mode=version, use_multipart=False)
            except (NotFoundError, PreconditionError) as error:
                raise ObjectChangedError(changed) from error

    def move(self, source: str, target: str) -> None:
        """Have the storage copy an object, then DELETE it where it was."""
        with self._request("copy", source):
            self._store.copy(self._prefix + source, self._prefix + target)
        reached("move.done")
        self.delete([source])

    def stat(self, key: str) -> Stat | None:
        """HEAD an object."""
        try:
            with self._request("head", key):
                store, path = self._at(key)
                found = store.head(path)
        except FileNotFoundError:
            return None
        return Stat(int(found["size"]), _stamp(found), found["last_modified"].timestamp())

    def below(self, prefix: str) -> Remote:
        """Return a longer prefix."""
        return Remote(f"{self.uri}/{prefix}") if prefix else self

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """List objects, a thousand per request."""

        def objects() -> list[tuple[str, int]]:
            found: list[tuple[str, int]] = []
            store, folder = self._at(prefix)
            cut = len(self._at("")[1])
            for batch in store.list(folder or None, chunk_size=1000):
                found += [(str(meta["path"])[cut:], int(meta["size"])) for meta in batch]
            if self._http:
                found = [(quote(key, safe=URL_SIGNS), nbytes) for key, nbytes in found]
            return sorted(found)

        try:
            with self._request("list", prefix):
                # obstore repeats requests, but not an answer that breaks off.
                return _again(objects)
        except FileNotFoundError as error:
            if self._http:
                return []
            raise LocationError(f"{self._root}: no such bucket", hint="make it, or correct its name") from error

    def delete(self, keys: Sequence[str]) -> None:
        """DELETE objects one by one, on threads: not every storage has a request for many."""

        def delete(key: str) -> None:
            with self._request("delete", key), contextlib.suppress(FileNotFoundError):
                self._store.delete(self._prefix + key)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(delete, keys))

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
            text = str(error).splitlines()[0]
            message = f"{self.show(key)}: the storage failed: {text}"
            hint = "what was committed before stays; when the storage answers, run the same command again"
            if _REFUSED.search(text):
                raise LocationError(message, hint=hint) from error
            raise FetchError(message, hint=hint, why="the storage does not answer") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.uri,)


def _stamp(meta: ObjectMeta) -> str:
    return meta["e_tag"] or f"{meta['last_modified'].timestamp()}-{meta['size']}"


def _again(request: Callable[[], T]) -> T:
    """Repeat a whole request that the network broke off, for as long as obstore repeats parts of one."""
    from obstore.exceptions import GenericError

    began, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            return request()
        except GenericError as error:
            if _REFUSED.search(str(error)) or time.monotonic() + pause_s > began + RETRY_S:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
