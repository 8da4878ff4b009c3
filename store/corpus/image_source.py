"""Reads the bytes of a row's image from the corpus."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import pyarrow as pa

from store.errors import CorpusError, FetchError, LocationError, PairDecodeError
from store.io.location import Location, is_url, locate, split_uri
from store.io.web import AWAY_S, get

from .access import Access
from .corpus_files import HTTP, resolve_uri
from .image_tables import open_table

IMAGE_FILE_BYTES = 2**30
"""Largest image file that is read: one of its own, a member of an archive, or what a member inflates to."""

GROUPS_KEPT = 4
"""Row groups of images kept in memory; threads that read neighbouring rows share one or two."""

DEFLATE = "deflate"
"""In place of a column: the bytes at the offset are deflated, as in a zip."""

FILES_OPEN = 64
"""Parquet files that are open at most; the least recently used one is closed. Many systems allow a process 256."""

ReadPart: TypeAlias = Callable[[int, int], bytes]
"""Returns a part of a file, given its offset and its bytes."""


MEMBERS = (("offset", "nbytes"), ("column", "row"))
"""Keys that name an image in a file of many."""


class ImageSource:
    """Fetches images by the uri and member columns of a pair table.

    Safe for use from several threads, and may be sent to another process.

    Args:
        root: the folder that uris are relative to, a path or URL.
        allow: places beside it that single images may be read from, see `Access`.
    """

    def __init__(self, root: str | os.PathLike[str] | Location, *, allow: Sequence[str] = ()) -> None:
        self._root, self._allow = locate(root), tuple(allow)
        self._access = Access(self._root.uri, allow)
        self._away: dict[str, float] = {}
        self._folders: dict[str, Location] = {}
        # Not through self: a cycle would keep files open until Python's garbage collector comes by.
        tables = self._tables = lru_cache(FILES_OPEN)(open_table)
        self._group = lru_cache(GROUPS_KEPT)(
            lambda location, name, column, group: tables(location, name).read(group, column)
        )
        self._lock = threading.Lock()

    def fetch(
        self,
        uri: str | None,
        member: Mapping[str, Any] | None,
        *,
        sha256: str | None = None,
        known: bool | None = None,
        read_part: ReadPart | None = None,
    ) -> bytes:
        """Return the bytes of one image.

        Args:
            member: the table's column, as a dictionary: ``offset`` and ``nbytes`` in a tar, ``column`` and ``row`` in a
                Parquet file or an npz, or None where the file at the uri is the image. A deflated image in a zip has
                the column `DEFLATE` beside offset and nbytes.
            sha256: the table's column, which the bytes are compared with; not compared if left out.
            known: whether there was an image when the corpus was indexed; whether there is a digest if left out.
            read_part: reads a part of the file at the uri, if it need not be asked for; raises as `part` does.

        Raises:
            PairDecodeError: the pair has no image.
            CorpusError: the corpus is not where the store says it is, or not what was indexed.
        """
        if uri is None:
            raise PairDecodeError("the corpus has no image for this key (missing member)")
        if member is not None and not (isinstance(member, Mapping) and any({*keys} <= {*member} for keys in MEMBERS)):
            raise PairDecodeError(f"member: expected the pair table's column, a dictionary or None, got {member!r}")
        if member is not None:
            data = self._read(uri, member, read_part)
        else:
            data = self._image(uri, known=sha256 is not None if known is None else known)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            # An error and no bad row: the pair is good, its file is wrong.
            raise CorpusError(
                f"{uri}: an image is not the one that was indexed; the file was changed or cut short since",
                hint="put the corpus back as it was, or index the changed one into a new store",
            )
        return data

    def is_far(self, uri: str) -> bool:
        """Return whether a file is read over a network, where each request waits."""
        whole = resolve_uri(uri, self._root.uri)
        return is_url(whole) and not whole.lower().startswith("file://")

    def part(self, uri: str, offset: int, nbytes: int) -> bytes:
        """Return ``nbytes`` bytes of a file of the corpus from ``offset`` on, fewer where it ends before.

        Raises:
            FileNotFoundError: there is none.
            PairDecodeError: the uri cannot be one.
        """
        location, name = self._place(uri)
        return location.read_part(name, offset, nbytes)

    def image(self, uri: str) -> bytes:
        """Return a file of its own, which a corpus names.

        Args:
            uri: absolute, or relative to the root.

        Raises:
            PairDecodeError: it may not be read, or cannot; `PairDecodeError.why` says it without names.
        """
        if uri.lower().startswith("data:"):
            raise PairDecodeError("data: URLs are not read", why="image's URL: data: URLs are not read")
        scheme, mark, rest = resolve_uri(uri, self._root.uri).partition("://")
        whole = scheme.lower() + mark + rest if mark else scheme
        try:
            folder, name = split_uri(whole)
            self._access.require(whole)
            if whole.startswith(HTTP):
                return get(whole, max_bytes=IMAGE_FILE_BYTES, check=self._access.require)
            return self._file(whole, folder, name)
        except PairDecodeError:
            raise
        except FileNotFoundError as error:
            raise PairDecodeError(f"{whole}: there is no such file", why="no file at an image's path") from error
        except FetchError as error:
            raise PairDecodeError(str(error), why=f"image's URL: {error.why}") from error
        except LocationError as error:
            raise PairDecodeError(str(error), hint=error.hint, why="file at an image's path cannot be read") from error
        except ValueError as error:
            raise PairDecodeError(f"{whole}: {error}", why="image's path is no path") from error

    def _file(self, whole: str, folder: str, name: str) -> bytes:
        storage = "/".join(folder.split("/")[:3]) if is_url(folder) else ""
        if time.monotonic() < self._away.get(storage, 0.0):
            raise FetchError(f"{whole}: the storage does not answer", why="the storage does not answer")
        location = self._folders.get(folder) or self._folders.setdefault(folder, locate(folder))
        if not storage and (location.size(name) or 0) > IMAGE_FILE_BYTES:
            raise LocationError(f"{whole}: larger than {IMAGE_FILE_BYTES} bytes")
        try:
            return location.read(name)
        except FetchError:
            if storage:
                self._away[storage] = time.monotonic() + AWAY_S
            raise

    def _image(self, uri: str, *, known: bool) -> bytes:
        """Return a file of its own; one on a disk that was there when it was indexed is missing now for all rows."""
        try:
            return self.image(uri)
        except PairDecodeError as error:
            if not known or is_url(resolve_uri(uri, self._root.uri)):
                raise
            raise CorpusError(
                f"{error}: it was there when it was indexed; the corpus is not where the store says",
                hint=error.hint or "give --corpus-root FOLDER, the folder that now holds the corpus",
            ) from error

    def _read(self, uri: str, member: Mapping[str, Any], read_part: ReadPart | None) -> bytes:
        location, name = self._place(uri)
        read_part, span = read_part or partial(location.read_part, name), span_of(member)
        try:
            if span is None:
                return self._from_table(location, name, str(member["column"]), int(member["row"]))
            data = read_part(*span)
            return inflated(data, location.show(name)) if member.get("column") == DEFLATE else data
        except FileNotFoundError as error:
            raise CorpusError(
                f"{location.show(name)}: the corpus is not where the store says",
                hint="give --corpus-root FOLDER, the folder that now holds the corpus",
            ) from error

    def _place(self, uri: str) -> tuple[Location, str]:
        if not is_url(uri) and not uri.startswith(("/", "../")):
            return self._root, uri
        try:
            folder, name = split_uri(resolve_uri(uri, self._root.uri))
            return self._folders.setdefault(folder, locate(folder)), name
        except LocationError as error:
            raise PairDecodeError(str(error)) from error

    def _from_table(self, location: Location, name: str, column: str, row: int) -> bytes:
        with self._lock:
            # Under the lock, so that a group that several threads want is read once; reading it is the whole work.
            table = self._tables(location, name)
            stored, steps = table.steps(column)
            group, position = table.place(row, stored)
            value: Any = self._group(location, name, stored, group)[position]
        try:
            for step in steps:
                value = value[step]
        except (IndexError, KeyError, TypeError):
            value = None
        data = value.as_py() if isinstance(value, pa.Scalar) else value
        if not isinstance(data, bytes):
            raise PairDecodeError(f"{location.show(name)}: column {column!r} holds no image in row {row}")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self._root.uri, "allow": self._allow}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], allow=state["allow"])  # type: ignore[misc]


def span_of(member: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Return the offset and the bytes of a member that lies in its file in one piece; None for any other image."""
    if member is None or member.get("offset") is None or member.get("column") not in {None, DEFLATE}:
        return None
    return member["offset"], member["nbytes"]


def inflated(data: bytes, what: str, *, nbytes: int | None = None) -> bytes:
    """Return what was deflated, as it lies in a zip.

    Args:
        nbytes: its bytes, if they are known.

    Raises:
        PairDecodeError: it is damaged, or larger than that or than 1 GiB.
    """
    most = IMAGE_FILE_BYTES if nbytes is None else min(nbytes, IMAGE_FILE_BYTES)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflater.decompress(data, most + 1)  # one more, so that the end is met
    except zlib.error as error:
        raise PairDecodeError(f"{what}: deflated bytes are damaged: {error}") from error
    if not inflater.eof or len(found) > most:
        raise PairDecodeError(f"{what}: deflated bytes are cut short, or more than {most} when inflated")
    return found
