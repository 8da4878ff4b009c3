"""Files of many images, Parquet and npz: where an image lies, and how a part is read. Nothing is unpickled."""

from __future__ import annotations

import math
import threading
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from store.errors import CorpusError, PairDecodeError
from store.io.location import Location, split_query
from store.io.object_file import disk_error, open_object, open_parquet

BLOCK_BYTES = 16 * 2**20
"""Bytes of images read at a time: threads that read neighbouring rows share one or two blocks."""

IMAGE_BYTES = 2**28
"""Bytes of an image at most: a header may say any size, and few bytes of a file decompress to many."""

DAMAGED = (
    KeyError,
    ValueError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)
"""Exceptions of zipfile and numpy where a file is damaged, encrypted, pickled or has no such array."""


class NpzImages:
    """An array of images, (N, H, W), (N, H, W, 1) or (N, H, W, 3) of uint8.

    A compressed array has to be decompressed from its beginning; reading forwards goes on where the last read ended,
    going back starts again. Safe for use from several threads.

    Args:
        file: the npz.
        uri: its name, for messages.
        name: the array's.

    Raises:
        CorpusError: it is not such an array.
    """

    def __init__(self, file: BinaryIO, uri: str, name: str) -> None:
        self._lock, self._where = threading.Lock(), f"{uri}: {name}"
        try:
            self._array = zipfile.ZipFile(file).open(f"{name}.npy")  # noqa: SIM115 - open as long as this lives
            version = np.lib.format.read_magic(self._array)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, by_columns, dtype = header(self._array)
        except DAMAGED as error:
            raise CorpusError(f"{self._where}: no readable array: {error}") from error
        images = len(self.shape) in {3, 4} and self.shape[3:] in {(), (1,), (3,)} and 0 not in self.shape[1:]
        if dtype != np.uint8 or by_columns or not images:
            order = ", column by column" if by_columns else ""
            raise CorpusError(
                f"{self._where}: has shape {self.shape} of {dtype}{order}; expected (N, H, W) or (N, H, W, 3) of uint8"
            )
        self._start = self._array.tell()
        self._nbytes = math.prod(self.shape[1:])
        if self._nbytes > IMAGE_BYTES:
            raise CorpusError(f"{self._where}: has images of {self._nbytes:,} bytes; expected at most {IMAGE_BYTES:,}")
        self._block_rows = max(1, BLOCK_BYTES // self._nbytes)

    def place(self, row: int) -> tuple[int, int]:
        """Return the block of a row, and its position there."""
        if row >= self.shape[0]:
            raise CorpusError(f"{self._where}: has {self.shape[0]} images, not {row + 1}; was the file replaced?")
        return divmod(row, self._block_rows)

    def block(self, number: int) -> list[bytes]:
        """Return the images of a block as PGM or PPM files: their pixels as they are, behind three lines."""
        first = number * self._block_rows
        rows = min(self._block_rows, self.shape[0] - first)
        try:
            with self._lock:
                self._array.seek(self._start + first * self._nbytes)
                pixels = self._array.read(rows * self._nbytes)
        except DAMAGED as error:
            raise CorpusError(f"{self._where}: cannot be read: {error}", hint="fetch the file again") from error
        if len(pixels) != rows * self._nbytes:
            raise CorpusError(f"{self._where}: is cut short within images {first} to {first + rows - 1}")
        head = f"P{6 if self.shape[3:] == (3,) else 5}\n{self.shape[2]} {self.shape[1]}\n255\n".encode()
        return [head + pixels[at : at + self._nbytes] for at in range(0, len(pixels), self._nbytes)]


def open_table(location: Location, name: str) -> _Parquet | _Npz:
    """Open a file of images by what its name says it is."""
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
