"""Reads the bytes of a row's image from the corpus."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from store.errors import CorpusError, LocationError, PairDecodeError
from store.io.location import Location, is_url, locate, split_query, split_uri
from store.io.object_file import disk_error, open_object, open_parquet

from .corpus_files import resolve_uri
from .npz_images import NpzImages

GROUPS_KEPT = 4
"""Row groups of images kept in memory; threads that read neighbouring rows share one or two."""

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
        tables = self._tables = lru_cache(FILES_OPEN)(_open_table)
        self._group = lru_cache(GROUPS_KEPT)(
            lambda location, name, column, group: tables(location, name).read(group, column)
        )
        self._lock = threading.Lock()

    def fetch(self, uri: str | None, member: Mapping[str, Any] | None, *, sha256: str | None = None) -> bytes:
        """Return the bytes of one image.

        Args:
            member: the table's column, as a dictionary: ``offset`` and ``nbytes`` in a tar, ``column`` and ``row`` in a
                Parquet file or an npz, or None where the file at the uri is the image.
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
            if member.get("column") is not None:
                return self._from_table(location, name, str(member["column"]), int(member["row"]))
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
        return {"root": self._root.uri}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]


def _open_table(location: Location, name: str) -> _Parquet | _Npz:
    return _Npz(location, name) if split_query(name)[0].lower().endswith(".npz") else _Parquet(location, name)


class _Npz:
    """Arrays of images, of which one block is read at a time."""

    def __init__(self, location: Location, name: str) -> None:
        self._location, self._name = location, name
        self._arrays: dict[str, NpzImages] = {}

    def steps(self, column: str) -> tuple[str, list[str | int]]:
        """Return the array's name; there is nothing to follow inside an image."""
        return column, []

    def place(self, row: int, column: str) -> tuple[int, int]:
        """Return the block of a row, and the position there."""
        if column not in self._arrays:
            self._arrays[column] = NpzImages(
                open_object(self._location, self._name), self._location.show(self._name), column
            )
        return self._arrays[column].place(row)

    def read(self, group: int, column: str) -> list[bytes]:
        """Return the images of a block."""
        return self._arrays[column].block(group)


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

    def steps(self, path: str) -> tuple[str, list[str | int]]:
        """Return the column of a path such as ``images.1.bytes``, and the fields and positions that lead on from it."""
        schema, parts = self._file.schema_arrow, path.split(".")
        lengths = [length for length in range(len(parts), 0, -1) if ".".join(parts[:length]) in schema.names]
        if not lengths:
            raise CorpusError(f"{self._uri}: has no column {path!r}; was the file replaced since it was indexed?")
        column = ".".join(parts[: lengths[0]])
        kind: Any = schema.field(column).type
        steps: list[str | int] = []
        for part in parts[lengths[0] :]:
            if pa.types.is_struct(kind):
                steps.append(part)
                kind = kind.field(part).type if kind.get_field_index(part) >= 0 else pa.null()
            else:
                steps.append(int(part) if part.isdecimal() else part)
                kind = getattr(kind, "value_type", pa.null())
        return column, steps

    def place(self, row: int, _: str) -> tuple[int, int]:
        """Return the row group of a row, and the position there."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group >= len(self._ends):
            raise PairDecodeError(f"{self._uri} is cut short: it has {int(self._ends[-1])} rows, not {row + 1}")
        return group, row - (int(self._ends[group - 1]) if group else 0)

    def read(self, group: int, column: str) -> pa.ChunkedArray:
        """Return the values of a column in a row group."""
        return self._file.read_row_group(group, columns=[column], use_threads=False).column(0)
