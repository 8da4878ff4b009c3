"""One side of one teacher's features, from its store shards to the array where they are wanted.

Out of mapped files where there is a local disk (`mapped.py`), else by reading chunks into a buffer.

Axes: B rows that were asked for, K chunks that hold them, D the teacher's width.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import ObjectChangedError
from store.format.arrays import chunks_of, restored
from store.format.records import Receipt, Side, Spec
from store.io.fetching import SLOW_S, THREADS
from store.io.folder import Folder
from store.io.location import Location

from .mapped import MAPS, Slots, read_ahead
from .shards import Found, Shards, Verify
from .units import Unit, UnitChangedError, Units

BLOCK_BYTES = 2**20
"""Bytes of rows that are copied at a time: about what a core's cache holds."""

SMALLEST_BYTES = 2**20
"""Smaller arrays are not worth keeping."""

PART_BYTES = 2**20
"""Less is not asked for by a request of its own where chunks follow each other."""

QUICK_BYTES_PER_S = 1e9
"""Slower than this, rows came from a disk. Out of the page cache they come at five to ten times that."""

Rows = npt.NDArray[np.int64]


class StoredSide:
    """The committed features of one side of one teacher. Used by one thread at a time.

    Args:
        sides: how many sides the reader has, which share the files that may be mapped.

    Attributes:
        width: D.
        dtype: of the features as they are read.
        maps: whether files are mapped.
    """

    def __init__(
        self, location: Location, spec: Spec, side: Side, *, units: Units[Receipt], verify: Verify, sides: int
    ) -> None:
        self._units, self._info, self.width = units, units.info, spec.embed_dim
        self._dtype = np.dtype(spec.stored_dtype)
        self.dtype = np.dtype(np.float32) if self._dtype == np.int8 else self._dtype
        self._shards = Shards(location, spec, side, units=units, verify=verify)
        self._chunk_bytes = self._shards.chunk_bytes
        # By chunk of the store, whether it was compared with its checksum. Memory is only taken where a value is set.
        self._checked = np.zeros(self._info.ranges * chunks_of(self._info), bool)
        self._seen: dict[int, int] = {}
        self._found: dict[int, tuple[bytes, Found]] = {}
        self._kept: dict[int, tuple[bytes, npt.NDArray[np.uint8]]] = {}
        self._slots: Slots | None = None
        if isinstance(location, Folder):
            row_bytes, limit = self.width * self._dtype.itemsize, max(1, min(MAPS // sides, self._info.ranges))
            try:
                self._slots = Slots(range_rows=self._info.range_rows, row_bytes=row_bytes, limit=limit)
            except OSError:
                self._slots = None
        self.maps = self._slots is not None

    def fill(
        self, rows_B: Rows, out_BD: npt.NDArray[Any], *, soon: Rows | None, arrays: RecycledArrays, threads: int
    ) -> bool:
        """Fill an array with some rows. Returns whether reading was slow.

        Args:
            soon: rows of the next call; chunks that are read now and hold some of them are kept until then.
            arrays: memory for what lies between.
            threads: that read chunks.

        Raises:
            UnitChangedError: a unit was made anew meanwhile; what was filled in is worth nothing.
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        if not len(rows_B):
            return False
        number_B = rows_B // self._info.range_rows
        numbers = _distinct(number_B).tolist()
        units = self._units.among(numbers)
        if self._slots is None:
            return self._read(rows_B, out_BD, units, soon=soon, arrays=arrays, threads=threads)
        limit = self._slots.limit
        if len(numbers) <= limit:
            parts: list[tuple[slice | Rows, Mapping[int, Unit | None]]] = [(slice(None), units)]
        else:
            groups = [numbers[first : first + limit] for first in range(0, len(numbers), limit)]
            parts = [
                (_places((number_B >= group[0]) & (number_B <= group[-1])), {number: units[number] for number in group})
                for group in groups
            ]
        for places, some in parts:
            rows, whole = rows_B[places], isinstance(places, slice)
            out = out_BD[places] if whole else arrays.empty((len(rows), self.width), self.dtype)
            if not whole:
                read_ahead(self.ahead(rows))
            if not self._gather(self._slots, rows, out, some):
                self._read(rows, out, some, soon=None, arrays=arrays, threads=threads)
            if not whole:
                out_BD[places] = out
        return False

    # Out of mapped files.

    def ahead(self, rows_B: Rows) -> npt.NDArray[np.int64]:
        """Return address and bytes (N, 2) of the chunks of some rows, for `read_ahead`; none that cannot be mapped."""
        nothing = np.empty((0, 2), np.int64)
        if self._slots is None or not len(rows_B):
            return nothing
        units = self._units.among(_distinct(rows_B // self._info.range_rows).tolist())
        there = [unit for unit in units.values() if unit is not None]
        if len(units) > self._slots.limit or not self._map_all(self._slots, there):
            return nothing
        each, first = chunks_of(self._info), min(units)
        chunks_R, addresses_R = np.zeros((2, max(units) - first + 1), np.int64)
        for unit in there:
            chunks_R[unit.range - first] = self._shards.chunks(unit)
            addresses_R[unit.range - first] = self._slots.address(unit.range)
        ranges_K, places_K = np.divmod(_distinct(rows_B // self._info.chunk_rows), each)
        stored_K = places_K < chunks_R[ranges_K - first]
        addresses_K = addresses_R[ranges_K - first] + places_K * self._chunk_bytes
        return np.stack([addresses_K[stored_K], np.full(stored_K.sum(), self._chunk_bytes)], axis=1)

    def _map_all(self, slots: Slots, there: Sequence[Unit]) -> bool:
        """Map the shards of some units; returns False where they cannot be mapped at the same time."""
        if not all(slots.content(unit.range) == unit.content or self._map(slots, unit) for unit in there):
            return False
        # Mapping one may have taken the place of another where the process may map no more files.
        return all(slots.content(unit.range) == unit.content for unit in there)

    def _gather(
        self,
        slots: Slots,
        rows_B: Rows,
        out_BD: npt.NDArray[Any],
        units: Mapping[int, Unit | None],
    ) -> bool:
        """Fill an array with rows of ranges that can be mapped at the same time. Returns False where they cannot."""
        there = [unit for unit in units.values() if unit is not None]
        if not self._map_all(slots, there):
            return False
        self._check(slots, rows_B, units)
        first = min(units)
        shift = slots.shifts([*units], first=first, count=max(units) - first + 1, range_rows=self._info.range_rows)
        place_B = rows_B + shift[rows_B // self._info.range_rows - first]
        for unit in there:
            end = self._info.bounds(unit.range)[1]
            if unit.stop < end:
                place_B[(rows_B >= unit.stop) & (rows_B < end)] = 0
        if self._dtype == self.dtype:
            np.take(slots.rows, place_B, out=_whole_rows(out_BD), mode="clip")
        else:
            self._restore(slots.rows, place_B, out_BD)
        slots.let_go()
        return True

    def _map(self, slots: Slots, unit: Unit) -> bool:
        with self._shards.opened(unit) as (descriptor, found):
            self._touch(unit, found, descriptor)
            return slots.put(unit.range, unit.content, descriptor, self._shards.chunks(unit) * self._chunk_bytes)

    def _check(self, slots: Slots, rows_B: Rows, units: Mapping[int, Unit | None]) -> None:
        """Compare the chunks of some rows with their checksums."""
        if self._shards.verify == "never":
            return
        chunks_K = _distinct(rows_B // self._info.chunk_rows)
        todo_K = self._unchecked(chunks_K)
        of_K, place_K = np.divmod(todo_K, chunks_of(self._info))
        for number in np.unique(of_K).tolist():
            unit = units[number]
            if unit is not None:
                shard = slots.part(number, 0, self._shards.chunks(unit) * self._chunk_bytes)
                there = (of_K == number) & (place_K < self._shards.chunks(unit))
                self._shards.check_chunks(unit, place_K[there].tolist(), shard)
        self._checked[todo_K] = True

    # Through a buffer.

    def _read(
        self,
        rows_B: Rows,
        out_BD: npt.NDArray[Any],
        units: Mapping[int, Unit | None],
        *,
        soon: Rows | None,
        arrays: RecycledArrays,
        threads: int,
    ) -> bool:
        """Read the chunks that hold some rows, and fill an array with these rows. Returns whether reading was slow."""
        first = min(units)
        stops = np.zeros(max(units) - first + 1, np.int64)
        for number, unit in units.items():
            stops[number - first] = 0 if unit is None else unit.stop
        there_B = rows_B < stops[rows_B // self._info.range_rows - first]
        out_BD[~there_B] = 0
        places = np.flatnonzero(there_B)
        rows = rows_B[places]
        chunks_K, in_buffer = np.unique(rows // self._info.chunk_rows, return_inverse=True)
        taken = in_buffer * self._info.chunk_rows + rows % self._info.chunk_rows
        buffer_K = arrays.empty((len(chunks_K), self._chunk_bytes), np.dtype(np.uint8))
        stored = buffer_K.reshape(-1).view(f"V{self._chunk_bytes // self._info.chunk_rows}")
        out_B = _whole_rows(out_BD)

        def copy(begin: int) -> None:
            part = slice(begin, begin + block)
            values_BD = np.take(stored, taken[part]).view(self._dtype).reshape(-1, self.width)
            out_B[places[part]] = _whole_rows(restored(values_BD))

        block = max(1, BLOCK_BYTES // (self.width * self.dtype.itemsize))
        with ThreadPoolExecutor(threads) as pool:
            slow = self._fetch(buffer_K, chunks_K, units, pool)
            list(pool.map(copy, range(0, len(rows), block)))
        following = set() if soon is None else {*_distinct(soon // self._info.chunk_rows).tolist()}
        self._kept = {}
        for number, chunk in enumerate(chunks_K.tolist()):
            of = units[chunk // chunks_of(self._info)]
            if chunk in following and of is not None:
                self._kept[chunk] = of.content, buffer_K[number].copy()
        return slow

    def _fetch(
        self,
        buffer_K: npt.NDArray[np.uint8],
        chunks_K: npt.NDArray[np.int64],
        units: Mapping[int, Unit | None],
        pool: ThreadPoolExecutor,
    ) -> bool:
        """Read chunks into a buffer, those that lie one after the other at once. Returns whether that was slow."""
        ranges_K, places_K = np.divmod(chunks_K, chunks_of(self._info))
        of_K = [unit for number in ranges_K.tolist() if (unit := units[number]) is not None]
        read_K = np.ones(len(chunks_K), bool)
        for number, (chunk, unit) in enumerate(zip(chunks_K.tolist(), of_K, strict=True)):
            content, kept = self._kept.get(chunk, (b"", buffer_K[:0]))
            if content == unit.content:
                buffer_K[number], read_K[number] = kept, False
        todo = np.flatnonzero(read_K)
        needed = list({of_K[number].range: of_K[number] for number in todo.tolist()}.values())
        found = dict(zip((unit.range for unit in needed), pool.map(self._locate, needed), strict=True))

        def read(run: npt.NDArray[np.int64]) -> float:
            start, first = time.perf_counter(), int(run[0])
            unit, offset = of_K[first], int(places_K[first]) * self._chunk_bytes
            try:
                self._shards.read_into(buffer_K[first : run[-1] + 1], unit, found[unit.range], offset)
            except ObjectChangedError:
                self._found.pop(unit.range, None)
                raise UnitChangedError(unit) from None
            return time.perf_counter() - start - len(run) * self._chunk_bytes / QUICK_BYTES_PER_S

        follows = (np.diff(todo) == 1) & (np.diff(ranges_K[todo]) == 0) & (np.diff(places_K[todo]) == 1)
        runs = np.split(todo, np.flatnonzero(~follows) + 1) if len(todo) else []
        # Few long runs, as of whole shards, are asked for in parts, so that no connection is idle.
        share, parts = max(1, PART_BYTES // self._chunk_bytes), THREADS // max(1, len(runs))
        runs = [part for run in runs for part in np.array_split(run, max(1, min(parts, len(run) // share)))]
        # The quickest decides, because any may be held up.
        slow = min(pool.map(read, runs), default=0.0) > SLOW_S
        unchecked = {*self._unchecked(chunks_K[todo]).tolist()}
        for number in todo.tolist():
            if int(chunks_K[number]) in unchecked:
                data = buffer_K[number]
                data.setflags(write=False)
                place = int(places_K[number])
                self._shards.check_chunks(of_K[number], [place], data, first=place)
        self._checked[chunks_K[todo]] = True
        return slow

    def _locate(self, unit: Unit) -> Found:
        content, found = self._found.get(unit.range, (b"", None))
        if found is None or content != unit.content:
            found = self._shards.found(unit)
            self._touch(unit, found, None)
            self._found[unit.range] = unit.content, found
        return found

    # Both.

    def _touch(self, unit: Unit, found: Found, descriptor: int | None) -> None:
        """Look at an object before it is read: one that was not seen before is not checked yet."""
        seen = hash((unit.content, found.stamp))
        if self._seen.get(unit.range) != seen:
            self._shards.check(unit, found, descriptor)
            each = chunks_of(self._info)
            self._checked[unit.range * each : (unit.range + 1) * each] = False
            self._seen[unit.range] = seen

    def _unchecked(self, chunks_K: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self._shards.verify == "first":
            return chunks_K[~self._checked[chunks_K]]
        return chunks_K if self._shards.verify == "always" else chunks_K[:0]

    def _restore(self, stored: npt.NDArray[np.void], place_B: Rows, out_BD: npt.NDArray[Any]) -> None:
        block = max(1, BLOCK_BYTES // (self.width * self.dtype.itemsize))
        for begin in range(0, len(place_B), block):
            values = np.take(stored, place_B[begin : begin + block]).view(self._dtype).reshape(-1, self.width)
            out_BD[begin : begin + block] = restored(values)


def _distinct(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return distinct numbers, ascending; they are close together, or few."""
    first = int(numbers.min())
    found = np.zeros(int(numbers.max()) - first + 1, bool)
    found[numbers - first] = True
    return np.flatnonzero(found) + first


def _places(chosen_B: npt.NDArray[np.bool_]) -> slice | npt.NDArray[np.int64]:
    """Return where a mask is true, as a slice if that is one stretch."""
    places = np.flatnonzero(chosen_B)
    stretch = slice(int(places[0]), int(places[-1]) + 1)
    return stretch if stretch.stop - stretch.start == len(places) else places


def _whole_rows(values_BD: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Return rows as one value each: NumPy copies such a value at once, and lets go of the interpreter meanwhile."""
    return np.ascontiguousarray(values_BD).view(f"V{values_BD.shape[1] * values_BD.itemsize}")[:, 0]


class RecycledArrays:
    """Gives arrays like `numpy.empty`, from memory of arrays that it gave before and that are gone, views included.

    The operating system gives fresh memory page by page as it is written, which takes longer than filling it.
    """

    def __init__(self) -> None:
        self._spare: dict[int, list[npt.NDArray[np.uint8]]] = {}
        self._sizes: set[int] = set()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array whose content is not defined."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if nbytes < SMALLEST_BYTES:
            return np.empty(shape, dtype)
        size = rounded_up(nbytes)
        self._sizes.add(size)
        spare = self._spare.setdefault(size, [])
        memory = spare.pop() if spare else np.empty(size, np.uint8)
        # Through a buffer, so that views refer to this array, and keep it alive, and not to the memory behind it.
        array = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(array, spare.append, memory).atexit = False
        return array[:nbytes].view(dtype).reshape(shape)

    def trim(self) -> None:
        """Free spare memory of sizes that were not asked for since the last call."""
        for size in self._spare.keys() - self._sizes:
            del self._spare[size]
        self._sizes = set()


def rounded_up(nbytes: int) -> int:
    """Return a size that others have too: a number from 8 to 16, times a power of two."""
    step = 1 << max(0, nbytes.bit_length() - 4)
    return -(-nbytes // step) * step
