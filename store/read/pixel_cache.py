"""Reads a store's pixel cache: images by row, a chunk at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import CorruptChunkError, IncompleteStoreError, LocationError, PairDecodeError
from store.format.pixels import PIXEL_RECEIPTS, PIXEL_SCHEMA, PIXEL_SPEC_KEY, PixelReceipt, PixelSpec, pixels_key
from store.format.records import StoreInfo, read_record
from store.io.location import Location
from store.io.object_file import HANDLES_HINT, open_parquet

from .receipts import committed_rows, read_receipts

HINT = "python -m extract pixels --pipeline NAME makes them"

CHUNKS_KEPT = 8
"""Chunks of images held in memory (about 4 MB each at 256 rows): enough for rows that are read in order."""

FILES_OPEN = 64
"""Files of ranges that are open at most; the least recently used one is closed. Many systems allow a process 256."""


class PixelCache:
    """The images that a store holds itself, by row.

    Safe for use from several threads, and may be sent to another process. Ranges without a valid receipt are not there.

    Args:
        chunks_kept: chunks held in memory. A reader that mixes the rows of K chunks reads each of them once if K are
            kept, and once per row if fewer are.

    Raises:
        IncompleteStoreError: the store has no pixel cache.
    """

    def __init__(self, location: Location, *, info: StoreInfo, chunks_kept: int = CHUNKS_KEPT) -> None:
        self.location, self._info, self._chunks_kept = location, info, chunks_kept
        try:
            self.spec = read_record(location, PIXEL_SPEC_KEY, PixelSpec)
        except FileNotFoundError as error:
            raise IncompleteStoreError(f"{location}: the store holds no images of its own", hint=HINT) from error
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[int, int], Future[pa.ChunkedArray]] = OrderedDict()
        self._file = lru_cache(FILES_OPEN)(_RangeFile)

    @cached_property
    def receipts(self) -> dict[int, PixelReceipt]:
        """Receipts of the present spec, by range; read once."""
        return read_receipts(self.location, PIXEL_RECEIPTS, PixelReceipt, spec_hash=self.spec.hash)

    @cached_property
    def _reasons(self) -> dict[int, str]:
        return {bad.row: bad.reason for receipt in self.receipts.values() for bad in receipt.bad_rows}

    def committed_rows(self) -> npt.NDArray[np.bool_]:
        """Return (N,) whether each row's image is stored or known to be bad."""
        return committed_rows(self.receipts.values(), rows=self._info.rows)

    def is_complete(self) -> bool:
        """Whether every row's image is stored or known to be bad."""
        return bool(self.committed_rows().all())

    def fetch(self, row: int) -> bytes:
        """Return the encoded image of a row.

        Raises:
            PairDecodeError: the pair has no usable image; says why.
            IncompleteStoreError: the row's range is not committed.
            CorruptChunkError: the range is committed, but not what is stored.
        """
        receipt = self._receipt(row)
        chunk, position = divmod(row - receipt.start, self._info.chunk_rows)
        data = self._chunk(receipt.range, chunk)[position].as_py()
        if not isinstance(data, bytes):
            raise PairDecodeError(self._reasons.get(row, "the store has no image of this row"))
        return data

    def read(self, start: int, stop: int) -> pa.Table:
        """Return rows ``start`` to ``stop`` (exclusive) as an Arrow table: row, image, width, height, status.

        Raises:
            IncompleteStoreError: a row's range is not committed.
            CorruptChunkError: a range is committed, but not what is stored.
        """
        parts, row = [PIXEL_SCHEMA.empty_table()], start
        while row < stop:
            receipt = self._receipt(row)
            end, rows = min(stop, receipt.stop), self._info.chunk_rows
            first, last = (row - receipt.start) // rows, (end - 1 - receipt.start) // rows
            file = self._range_file(receipt)
            chunks = [file.read(chunk, PIXEL_SCHEMA.names) for chunk in range(first, last + 1)]
            parts.append(pa.concat_tables(chunks).slice(row - receipt.start - first * rows, end - row))
            row = end
        return pa.concat_tables(parts)

    def _receipt(self, row: int) -> PixelReceipt:
        receipt = self.receipts.get(row // self._info.range_rows)
        # After an append the receipt of the last range may cover only its first rows.
        if receipt is None or row >= receipt.stop:
            raise IncompleteStoreError(f"{self.location}: the images of row {row} are not in the store yet", hint=HINT)
        return receipt

    def _chunk(self, range_id: int, chunk: int) -> pa.ChunkedArray:
        key = (range_id, chunk)
        with self._lock:
            found = self._chunks.get(key)
            reading = found or Future()
            self._chunks[key] = reading
            self._chunks.move_to_end(key)
            if len(self._chunks) > self._chunks_kept:
                self._chunks.popitem(last=False)
        if found is None:
            # Outside the lock, so that other threads can read other chunks meanwhile.
            try:
                reading.set_result(self._range_file(self.receipts[range_id]).read(chunk, ["image"])["image"])
            except BaseException as error:
                with self._lock:
                    self._chunks.pop(key, None)
                reading.set_exception(error)
                raise
        return reading.result()

    def _range_file(self, receipt: PixelReceipt) -> _RangeFile:
        return self._file(self.location, receipt.range, receipt.stop - receipt.start)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "info": self._info, "chunks_kept": self._chunks_kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _RangeFile:
    """The Parquet file of one range, opened when it is first read."""

    def __init__(self, location: Location, range_id: int, rows: int) -> None:
        self._location, self._rows, self._key = location, rows, pixels_key(range_id)
        self._lock = threading.Lock()
        self._opened: pq.ParquetFile | None = None

    def read(self, chunk: int, columns: list[str]) -> pa.Table:
        """Return some columns of a chunk."""
        try:
            with self._lock:
                if self._opened is None:
                    self._opened = self._open()
                return self._opened.read_row_group(chunk, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
                # The disk or this process's limits, which says nothing about what is stored.
                raise LocationError(f"{self._location.show(self._key)}: {error}", hint=HANDLES_HINT) from error
            raise self._corrupt(f"cannot be read: {error}") from error

    def _open(self) -> pq.ParquetFile:
        file = open_parquet(self._location, self._key)
        if file.metadata.num_rows != self._rows:
            raise self._corrupt(f"has {file.metadata.num_rows} rows, its receipt says {self._rows}")
        return file

    def _corrupt(self, what: str) -> CorruptChunkError:
        return CorruptChunkError(
            f"{self._location.show(self._key)}: {what}",
            hint=f"restore it from a copy; without one move the folder pixels/ out of the store, then {HINT} anew",
        )
