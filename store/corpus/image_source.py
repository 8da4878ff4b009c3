"""Reads the bytes of a row's image from the corpus."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from store.errors import CorpusError, LocationError, PairDecodeError
from store.io.location import Location, is_url, locate, split_uri
from store.io.object_file import disk_error, open_parquet

from .corpus_files import resolve_uri

GROUPS_KEPT = 4
"""Row groups of images kept in memory; threads that read neighbouring rows share one or two."""

DEFLATE = "deflate"
"""In place of a column: the bytes at the offset are deflated, as in a zip."""

INFLATED_BYTES = 2**30
"""Bytes that a deflated image may have."""

FILES_OPEN = 64
"""Parquet files that are open at most; the least recently used one is closed. Many systems allow a process 256."""


class ImageSource:
    """Fetches images by the uri and member columns of a pair table.

    Safe for use from several threads, and may be sent to another process.

    Args:
        root: the folder that uris are relative to, a path or URL.
    """

    def __init__(self, root: str | os.PathLike[str] | Location) -> None:
        self._root = locate(root)
        self._folders: dict[str, Location] = {}
        # Not through self: a cycle would keep files open until Python's garbage collector comes by.
        parquet = self._parquet = lru_cache(FILES_OPEN)(_Parquet)
        self._group = lru_cache(GROUPS_KEPT)(
            lambda location, name, column, group: parquet(location, name).read(group, column)
        )
        self._lock = threading.Lock()

    def fetch(self, uri: str | None, member: Mapping[str, Any] | None, *, sha256: str | None = None) -> bytes:
        """Return the bytes of one image.

        Args:
            member: the table's column, as a dictionary: ``offset`` and ``nbytes`` in a tar, ``column`` and ``row`` in a
                Parquet file, or None where the file at the uri is the image. Deflated images of a zip have the column
                `DEFLATE` beside offset and nbytes.
            sha256: the table's column, which the bytes are compared with; not compared if left out.

        Raises:
            PairDecodeError: the pair has no image.
            CorpusError: the corpus is not where the store says it is, or not what was indexed.
        """
        if uri is None:
            raise PairDecodeError("the corpus has no image for this key (missing member)")
        data = self._read(uri, member)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            # An error and no bad row: the pair is good, its file is wrong.
            raise CorpusError(
                f"{uri}: an image is not the one that was indexed; the file was changed or cut short since",
                hint="put the corpus back as it was, or index the changed one into a new store",
            )
        return data

    def _read(self, uri: str, member: Mapping[str, Any] | None) -> bytes:
        location, name = self._place(uri)
        try:
            if member is None:
                return location.read(name)
            if member.get("column") == DEFLATE and member.get("offset") is not None:
                return inflated(location.read_part(name, member["offset"], member["nbytes"]), location.show(name))
            if member.get("column") is not None:
                return self._from_parquet(location, name, str(member["column"]), int(member["row"]))
            return location.read_part(name, member["offset"], member["nbytes"])
        except FileNotFoundError as error:
            if is_url(uri):  # one image of its own somewhere: no other root would help
                raise PairDecodeError(f"{uri}: no such image") from error
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

    def _from_parquet(self, location: Location, name: str, column: str, row: int) -> bytes:
        with self._lock:
            # Under the lock, so that a group that several threads want is read once; reading it is the whole work.
            group, position = self._parquet(location, name).place(row)
            values = self._group(location, name, column, group)
        data = values[position].as_py()
        if not isinstance(data, bytes):
            raise PairDecodeError(f"{location.show(name)}: column {column!r} holds no image in row {row}")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self._root.uri}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]


def inflated(data: bytes, what: str, *, nbytes: int | None = None) -> bytes:
    """Return what was deflated, as it lies in a zip.

    Args:
        nbytes: its bytes, if they are known.

    Raises:
        PairDecodeError: it is damaged, or larger than that or than 1 GiB.
    """
    most = INFLATED_BYTES if nbytes is None else min(nbytes, INFLATED_BYTES)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflater.decompress(data, most + 1)  # one more, so that the end is met
    except zlib.error as error:
        raise PairDecodeError(f"{what}: deflated bytes are damaged: {error}") from error
    if not inflater.eof or len(found) > most:
        raise PairDecodeError(f"{what}: deflated bytes are cut short, or more than {most} when inflated")
    return found


class _Parquet:
    """A Parquet file of images, of which one row group is read at a time."""

    def __init__(self, location: Location, name: str) -> None:
        try:
            self._file = open_parquet(location, name)
        except OSError as error:
            raise disk_error(error, location.show(name)) or error from error
        except pa.ArrowInvalid as error:
            raise CorpusError(f"{location.show(name)}: cannot be read as Parquet: {error}") from error
        self._uri = location.show(name)
        metadata = self._file.metadata
        self._ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])

    def place(self, row: int) -> tuple[int, int]:
        """Return the row group of a row, and the position there."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group >= len(self._ends):
            raise PairDecodeError(f"{self._uri} is cut short: it has {int(self._ends[-1])} rows, not {row + 1}")
        return group, row - (int(self._ends[group - 1]) if group else 0)

    def read(self, group: int, column: str) -> pa.ChunkedArray:
        """Return the values of a column, or of a field of one (``image.bytes``), in a row group."""
        table = self._file.read_row_group(group, columns=[column], use_threads=False)
        if not table.num_columns:
            raise CorpusError(f"{self._uri}: has no column {column!r}; was the file replaced since it was indexed?")
        values = table.column(0)
        while pa.types.is_struct(values.type):
            values = values.combine_chunks().field(0) if values.num_chunks else pa.chunked_array([], pa.binary())
        return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
