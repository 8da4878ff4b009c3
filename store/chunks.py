"""Features of many rows straight from the bytes of their store shards, each chunk once.

Zarr decodes each chunk by itself, at about a millisecond apiece. In a shard the rows lie as they are, so that reading
is a copy: of a few chunks into a small buffer, which stays in the processor's cache, and from there of each row to its
place. Arrays with a compressor or another layout are left to Zarr.

Axes: B rows that were asked for, D a teacher's width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .arrays import Side, restored
from .fetching import SLOW_S, THREADS, TRIED
from .location import Folder
from .reader import FeatureStore
from .recycled import RecycledArrays, Scratch
from .row_plan import Piece, SortedRows, pieces
from .shards import PlainShards, is_plain

SIDES: tuple[Side, Side] = ("image", "text")

PIECE_BYTES = 2**20
"""Bytes read from a file before their rows are taken to their places: what a core's cache holds."""

REMOTE_PIECE_BYTES = 2**26
"""Bytes of one request to an object storage: more than a store shard has, as a rule."""

Rows: TypeAlias = npt.NDArray[np.int64]
Features: TypeAlias = npt.NDArray[np.floating[Any]]
Found: TypeAlias = dict[tuple[str, Side], Features]


@dataclass(kw_only=True, frozen=True, slots=True)
class Ask:
    """Features to read.

    Attributes:
        teachers: ids; each is asked for the same rows.
        rows_B: row numbers in any order.
        soon: rows that the next call will ask of the same teachers. Those in chunks that are read now are taken from
            them already, so that rows in the order of training have each chunk read once.
    """

    teachers: tuple[str, ...]
    rows_B: Rows
    soon: Rows | None = None


@dataclass(kw_only=True, slots=True)
class _Answer:
    """Features that are, or will be, asked for; filled in part."""

    rows_B: Rows
    arrays: Found
    filled_B: npt.NDArray[np.bool_]


class ChunkReader:
    """Reads features of many rows at once. One call at a time, from whatever thread.

    What it holds, beside the arrays of this and the next call, does not grow with the store, but for 8 bytes per chunk.

    Args:
        store: what to read; what is committed is as of when its receipts were read.
        threads: that read where reading is quick, as from the page cache; where it is not, 16 do.
    """

    def __init__(self, store: FeatureStore, *, threads: int = 2) -> None:
        self._store, self._threads = store, threads
        self._arrays = RecycledArrays()
        self._opened: dict[str, _Teacher] = {}
        self._prepared: dict[tuple[str, ...], _Answer] = {}

    def read(self, rows_B: Rows, *, teacher: str, side: Side) -> Features:
        """Return features of some rows, as `FeatureStore.read` does.

        Raises:
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        self._require(rows_B)
        out_BD, wanted = self._empty(teacher, len(rows_B)), SortedRows(rows_B)
        self._run(self._teacher(teacher).jobs([wanted], [{(teacher, side): out_BD}], sides=(side,)))
        self._arrays.trim()
        return out_BD

    def read_range(self, range_id: int, *, teacher: str, side: Side) -> Features:
        """Return the features of a whole range, as `FeatureStore.read` does, at the speed of reading a file.

        Raises:
            CorruptChunkError: the unit is committed, but not what is stored.
        """
        start, stop = self._store.info.bounds(range_id)
        out_BD = self._empty(teacher, stop - start)
        if not self._teacher(teacher).copy_range(range_id, side, out_BD):
            return self.read(np.arange(start, stop), teacher=teacher, side=side)
        return out_BD

    def read_many(self, asks: Sequence[Ask]) -> Found:
        """Return features of both sides by teacher and side, (B, D) each; zeros where the status is not ok.

        Args:
            asks: none of them for the same teachers as another.

        Raises:
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        found: Found = {}
        jobs: list[_Job] = []
        prepared: dict[tuple[str, ...], _Answer] = {}
        before, self._prepared = self._prepared, {}
        for ask in asks:
            answer = before.pop(ask.teachers, None)
            if answer is None or not np.array_equal(answer.rows_B, ask.rows_B):
                answer = self._answer(ask.teachers, ask.rows_B)
            found |= answer.arrays
            wanted, arrays = [SortedRows(ask.rows_B, places=np.flatnonzero(~answer.filled_B))], [answer.arrays]
            following = None if ask.soon is None else self._ahead(ask.teachers, ask.soon, now=wanted[0])
            if following:
                wanted.append(SortedRows(following.rows_B, places=np.flatnonzero(following.filled_B)))
                arrays.append(following.arrays)
                prepared[ask.teachers] = following
            for teacher in ask.teachers:
                jobs += self._teacher(teacher).jobs(wanted, arrays, sides=SIDES)
        self._run(jobs)
        # Not before: what a failure left unfilled must not be taken for read.
        self._prepared = prepared
        self._arrays.trim()
        return found

    def _ahead(self, teachers: tuple[str, ...], soon: Rows, *, now: SortedRows) -> _Answer | None:
        """Return what can be taken along for the next call, None if that is nothing."""
        chunk_rows = self._store.info.chunk_rows
        along_B = np.isin(soon // chunk_rows, now.chunks(chunk_rows))
        if not along_B.any():
            return None
        answer = self._answer(teachers, soon)
        answer.filled_B = along_B
        return answer

    def _answer(self, teachers: Iterable[str], rows_B: Rows) -> _Answer:
        arrays: Found = {(name, side): self._empty(name, len(rows_B)) for name in teachers for side in SIDES}
        self._require(rows_B)
        return _Answer(rows_B=rows_B, arrays=arrays, filled_B=np.zeros(len(rows_B), bool))

    def _empty(self, teacher: str, rows: int) -> Features:
        opened = self._teacher(teacher)
        return self._arrays.empty((rows, opened.width), opened.dtype)

    def _require(self, rows_B: Rows) -> None:
        if len(rows_B) and not 0 <= rows_B.min() <= rows_B.max() < self._store.info.rows:
            raise IndexError(f"rows {rows_B.min()} to {rows_B.max()} of a store that has {self._store.info.rows}")

    def _teacher(self, name: str) -> _Teacher:
        if name not in self._opened:
            self._opened[name] = _Teacher(self._store, name)
        return self._opened[name]

    def _run(self, jobs: Sequence[_Job]) -> None:
        """Do jobs on as many threads as pay, which the first ones tell; see `fetching.py`."""
        scratch, quickest_s = Scratch(), float("inf")
        for job in jobs[:TRIED]:
            start = time.perf_counter()
            job(scratch)
            quickest_s = min(quickest_s, time.perf_counter() - start)
        rest, threads = jobs[TRIED:], self._threads if quickest_s < SLOW_S else THREADS
        if len(rest) < 2 or threads == 1:
            _do(rest)
            return
        with ThreadPoolExecutor(threads) as pool:
            # A task per thread: one per job would cost more than the job.
            list(pool.map(_do, [rest[number::threads] for number in range(threads)]))


_Job: TypeAlias = Callable[[Scratch], None]


def _do(jobs: Iterable[_Job]) -> None:
    scratch = Scratch()
    for job in jobs:
        job(scratch)


class _Teacher:
    """What is committed of one teacher, and copying it to where it is wanted.

    Attributes:
        width: D.
        dtype: of its features as they are read.
    """

    def __init__(self, store: FeatureStore, name: str) -> None:
        spec, receipts = store.spec(name), store.receipts(name)
        self._store, self._info, self._name, self.width = store, store.info, name, spec.embed_dim
        self._dtype = np.dtype(spec.stored_dtype)
        self.dtype = np.dtype(np.float32) if self._dtype == np.int8 else self._dtype
        self._row_bytes = self.width * self._dtype.itemsize
        self._stops = np.zeros(store.info.ranges, np.int64)
        for receipt in receipts.values():
            self._stops[receipt.range] = receipt.stop
        self._shards: dict[Side, PlainShards] = {
            side: PlainShards(store.location, spec, side, receipts=receipts, info=store.info)
            for side in SIDES
            if is_plain(store.location, spec, side, info=store.info)
        }
        limit = PIECE_BYTES if isinstance(store.location, Folder) else REMOTE_PIECE_BYTES
        self._piece_chunks = max(1, limit // (store.info.chunk_rows * self._row_bytes))

    def jobs(self, wanted: Sequence[SortedRows], arrays: Sequence[Found], *, sides: Iterable[Side]) -> list[_Job]:
        """Return what fills arrays: of each, the places of its rows."""
        committed = [rows.part(rows.rows < self._stops[rows.rows // self._info.range_rows]) for rows in wanted]
        jobs: list[_Job] = []
        todo = pieces(committed, info=self._info, limit=self._piece_chunks)
        for side in sides:
            copies = [_Copies(rows, found[self._name, side]) for rows, found in zip(committed, arrays, strict=True)]
            for every, copy in zip(wanted, copies, strict=True):
                if copy.rows is not every:
                    # What nobody committed is zeros, whatever bytes lie there.
                    copy.out_BD[every.places] = 0
            if side in self._shards:
                jobs += [partial(self._copy, self._shards[side], copies, piece) for piece in todo]
            else:
                jobs += [partial(self._leave_to_zarr, side, copy) for copy in copies if len(copy.rows.rows)]
        return jobs

    def copy_range(self, range_id: int, side: Side, out_BD: Features) -> bool:
        """Copy a range at once, if it is whole and its chunks lie in order."""
        whole = self._stops[range_id] == self._info.bounds(range_id)[1]
        if not whole or side not in self._shards or self._dtype == np.int8:
            return False
        offsets = self._shards[side].offsets(range_id)[: -(-len(out_BD) // self._info.chunk_rows)]
        if offsets[0] < 0 or (np.diff(offsets) != self._info.chunk_rows * self._row_bytes).any():
            return False
        self._shards[side].read_into(out_BD, range_id, int(offsets[0]))
        return True

    def _leave_to_zarr(self, side: Side, copy: _Copies, _: Scratch) -> None:
        copy.out_BD[copy.rows.places] = self._store.read(copy.rows.rows, teacher=self._name, side=side)

    def _copy(self, shards: PlainShards, copies: Sequence[_Copies], piece: Piece, scratch: Scratch) -> None:
        first, stop = piece.chunks
        offsets = shards.offsets(piece.range_id)[first:stop]
        if (offsets[1:] != offsets[:-1] + self._info.chunk_rows * self._row_bytes).any():
            # Another writer may have stored chunks in another order.
            for single in piece.singles([copy.rows for copy in copies], info=self._info):
                self._copy(shards, copies, single, scratch)
            return
        parts = [(copy, low, high) for copy, (low, high) in zip(copies, piece.parts, strict=True) if low < high]
        if offsets[0] < 0:
            for copy, low, high in parts:
                copy.out_BD[copy.rows.places[low:high]] = 0
            return
        start = min(int(copy.rows.rows[low]) for copy, low, _ in parts)
        end = max(int(copy.rows.rows[high - 1]) for copy, _, high in parts) + 1
        before = start - piece.range_id * self._info.range_rows - first * self._info.chunk_rows
        offset = int(offsets[0]) + before * self._row_bytes
        if len(parts) == 1 and self._dtype != np.int8:
            copy, low, high = parts[0]
            if copy.rows.lie_as_stored(low, high):
                place = copy.rows.places[low]
                shards.read_into(copy.out_BD[place : place + end - start], piece.range_id, offset)
                return
        read_RD = scratch.of(end - start, self.width, self._dtype)
        shards.read_into(read_RD, piece.range_id, offset)
        for copy, low, high in parts:
            copy.take(read_RD, start, low, high)


class _Copies:
    """Rows, and the array that they are copied to."""

    def __init__(self, rows: SortedRows, out_BD: Features) -> None:
        self.rows, self.out_BD = rows, out_BD

    def take(self, read_RD: npt.NDArray[Any], start: int, low: int, high: int) -> None:
        """Copy the rows ``low`` to ``high`` of what was read from row ``start`` on to their places."""
        rows = self.rows.rows[low:high] - start
        picked_KD = read_RD[rows[0] : rows[-1] + 1] if self.rows.are_consecutive(low, high) else read_RD[rows]
        # As one value per row: NumPy copies it at once, and lets go of the interpreter meanwhile.
        _whole_rows(self.out_BD)[self.rows.places[low:high]] = _whole_rows(restored(picked_KD))


def _whole_rows(values_BD: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    return values_BD.view(f"V{values_BD.shape[1] * values_BD.itemsize}")[:, 0]
