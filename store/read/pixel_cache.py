"""Reads a store's pixel cache: images by row, a chunk at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import IncompleteStoreError, LocationError, PairDecodeError
from store.format.pixels import PIXEL_RECEIPTS, PIXEL_SCHEMA, PIXEL_SPEC_KEY, PixelReceipt, PixelSpec, pixels_key
from store.format.promote import next_folder
from store.format.records import StoreInfo, read_record
from store.io.location import Location
from store.io.object_file import HANDLES_HINT, open_parquet

from .present_pairs import PresentPairs
from .units import CLOCKS_S, Unit, UnitChangedError, Units, committed_rows

COMMAND = "python -m extract pixels --pipeline NAME"
HINT = f"{COMMAND} makes them"

CHUNKS_KEPT = 8
"""Chunks of images held in memory (about 4 MB each at 256 rows): enough for rows that are read in order."""

FILES_OPEN = 16
"""Files of ranges that are open at most; the least recently used one is closed. A process may be allowed only 64."""

T = TypeVar("T")


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
        self._files: OrderedDict[int, _RangeFile] = OrderedDict()
        self._reasons: dict[int, dict[int, str]] = {}
        self.units = Units(
            location,
            info=info,
            folder=PIXEL_RECEIPTS,
            name="pixels",
            model=PixelReceipt,
            spec_hash=self.spec.hash,
            spec_now=lambda: read_record(location, PIXEL_SPEC_KEY, PixelSpec).hash,
            keys=lambda range_id: [pixels_key(range_id)],
            of_pairs=PresentPairs(location, info),
            again=COMMAND,
            mend=f"restore it from a copy; without one move the folder pixels/ out of the store, and {HINT} anew",
            beside=f"{next_folder(self.spec.hash)}/",
        )

    def committed_rows(self) -> npt.NDArray[np.bool_]:
        """Return (N,) whether each row's image is stored or known to be bad."""
        return committed_rows(self.units.all().values(), rows=self._info.rows)

    def is_complete(self) -> bool:
        """Return whether every row's image is stored or known to be bad."""
        return bool(self.committed_rows().all())

    def fetch(self, row: int) -> bytes:
        """Return the encoded image of a row.

        Raises:
            PairDecodeError: the pair has no usable image; says why.
            IncompleteStoreError: the row's range is not committed.
            CorruptChunkError: the range is committed, but not what is stored.
        """

        def fetched() -> Any:
            unit = self._unit(row)
            chunk, position = divmod(row - unit.start, self._info.chunk_rows)
            return self._chunk(unit, chunk)[position].as_py()

        data = self._settled(fetched)
        if not isinstance(data, bytes):
            raise PairDecodeError(self._reason(row))
        return data

    def read(self, start: int, stop: int) -> pa.Table:
        """Return rows ``start`` to ``stop`` (exclusive) as an Arrow table: row, image, width, height, status.

        Raises:
            IncompleteStoreError: a row's range is not committed.
            CorruptChunkError: a range is committed, but not what is stored.
        """
        row = start

        def read() -> pa.Table:
            unit, rows = self._unit(row), self._info.chunk_rows
            end = min(stop, unit.stop)
            first, last = (row - unit.start) // rows, (end - 1 - unit.start) // rows
            chunks = [self._read(unit, chunk, PIXEL_SCHEMA.names) for chunk in range(first, last + 1)]
            return pa.concat_tables(chunks).slice(row - unit.start - first * rows, end - row)

        parts = [PIXEL_SCHEMA.empty_table()]
        while row < stop:
            parts.append(self._settled(read))
            row += parts[-1].num_rows
        return pa.concat_tables(parts)

    @staticmethod
    def _settled(read: Callable[[], T]) -> T:
        while True:
            try:
                return read()
            except UnitChangedError:
                continue

    def _unit(self, row: int) -> Unit:
        unit = self.units.get(row // self._info.range_rows)
        # After an append the receipt of the last range may cover only its first rows.
        if unit is None or row >= unit.stop:
            raise IncompleteStoreError(f"{self.location}: the images of row {row} are not in the store yet", hint=HINT)
        return unit

    def _reason(self, row: int) -> str:
        number = row // self._info.range_rows
        if number not in self._reasons:
            receipt = self.units.record(number)
            self._reasons[number] = {bad.row: bad.reason for bad in receipt.bad_rows} if receipt else {}
        return self._reasons[number].get(row, "the store has no image of this row")

    def _chunk(self, unit: Unit, chunk: int) -> pa.ChunkedArray:
        key = (unit.range, chunk)
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
                reading.set_result(self._read(unit, chunk, ["image"])["image"])
            except BaseException as error:
                with self._lock:
                    self._chunks.pop(key, None)
                reading.set_exception(error)
                raise
        return reading.result()

    def _read(self, unit: Unit, chunk: int, columns: list[str]) -> pa.Table:
        with self._lock:
            file = self._files.get(unit.range)
            if file is None or file.unit.content != unit.content:
                file = self._files[unit.range] = _RangeFile(self.location, unit, self.units)
            self._files.move_to_end(unit.range)
            while len(self._files) > FILES_OPEN:
                self._files.popitem(last=False)
        return file.read(chunk, columns)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "info": self._info, "chunks_kept": self._chunks_kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _RangeFile:
    """The Parquet file of one range, opened when it is first read; its pages have checksums."""

    def __init__(self, location: Location, unit: Unit, units: Units[PixelReceipt]) -> None:
        self._location, self.unit, self._units = location, unit, units
        self._lock = threading.Lock()
        self._opened: pq.ParquetFile | None = None

    def read(self, chunk: int, columns: list[str]) -> pa.Table:
        """Return some columns of a chunk."""
        key = pixels_key(self.unit.range)
        try:
            with self._lock:
                if self._opened is None:
                    self._opened = self._open()
                return self._opened.read_row_group(chunk, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
                # The disk or this process's limits, which says nothing about what is stored.
                raise LocationError(f"{self._location.show(key)}: {error}", hint=HANDLES_HINT) from error
            self._refuse(f"cannot be read: {error}")

    def _open(self) -> pq.ParquetFile:
        for start in self.unit.folders:
            key = start + pixels_key(self.unit.range)
            with contextlib.suppress(FileNotFoundError):
                file = open_parquet(self._location, key, check_pages=True)
                break
        else:
            self._refuse("is committed, but not there")
        # Asked after the file was opened: where this is of another one than the receipt's, the file may be, too.
        stat = self._location.stat(key)
        if stat is None or stat.nbytes != self.unit.nbytes[0]:
            self._refuse(f"has {stat and stat.nbytes} bytes, expected {self.unit.nbytes[0]}")
        if stat.modified >= self.unit.finished + CLOCKS_S:
            self._units.confirm(self.unit)
        return file

    def _refuse(self, what: str) -> NoReturn:
        self._units.settle(self.unit, pixels_key(self.unit.range), what)
