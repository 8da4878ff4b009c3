"""Features of many rows straight from the bytes of their store shards, each chunk once.

Zarr decodes each chunk by itself, at about a millisecond apiece. In a shard the rows lie as they are, so that reading
is a copy. Where shards can be mapped, each row is copied to its place at once (`mapped.py`); else a few chunks are read
into a small buffer, which stays in the processor's cache, and each row is copied from there. Arrays with a compressor
or another layout are left to Zarr.

Axes: B rows that were asked for, D a teacher's width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from store.format.arrays import Side
from store.io.fetching import SLOW_S, THREADS, TRIED

from .reader import FeatureStore
from .recycled import RecycledArrays, Scratch
from .row_plan import SortedRows
from .teacher_chunks import SIDES, Features, Found, Job, Rows, TeacherChunks

__all__ = ["SIDES", "Ask", "ChunkReader", "Features"]


@dataclass(kw_only=True, frozen=True, slots=True)
class Ask:
    """Features to read.

    Attributes:
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
        self._opened: dict[str, TeacherChunks] = {}
        self._prepared: dict[tuple[str, ...], _Answer] = {}

    def read(self, rows_B: Rows, *, teacher: str, side: Side) -> Features:
        """Return features of some rows, as `FeatureStore.read` does.

        Raises:
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        self._require(rows_B)
        opened, found = self._teacher(teacher), {(teacher, side): self._empty(teacher, len(rows_B))}
        jobs = opened.gathers(rows_B, found, sides=(side,))
        self._run(opened.jobs([SortedRows(rows_B)], [found], sides=(side,)) if jobs is None else jobs)
        self._arrays.trim()
        return found[teacher, side]

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
        gathers: list[Job] = []
        jobs: list[Job] = []
        prepared: dict[tuple[str, ...], _Answer] = {}
        before, self._prepared = self._prepared, {}
        for asked in asks:
            ask = self._gathered(asked, found, gathers)
            if not ask.teachers:
                continue
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
        _share(gathers, self._threads)
        self._run(jobs)
        # Not before: what a failure left unfilled must not be taken for read.
        self._prepared = prepared
        self._arrays.trim()
        return found

    def _gathered(self, ask: Ask, found: Found, jobs: list[Job]) -> Ask:
        """Leave those teachers to mapped files whose files can be mapped; return what is asked of the others."""
        self._require(ask.rows_B)
        others = []
        for name in ask.teachers:
            arrays: Found = {(name, side): self._empty(name, len(ask.rows_B)) for side in SIDES}
            gathers = self._teacher(name).gathers(ask.rows_B, arrays, sides=SIDES)
            if gathers is None:
                others.append(name)
            else:
                found |= arrays
                jobs += gathers
        return replace(ask, teachers=tuple(others))

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

    def _teacher(self, name: str) -> TeacherChunks:
        if name not in self._opened:
            self._opened[name] = TeacherChunks(self._store, name)
        return self._opened[name]

    def _run(self, jobs: Sequence[Job]) -> None:
        """Do jobs on as many threads as pay, which the first ones tell; see `fetching.py`."""
        scratch, quickest_s = Scratch(), float("inf")
        for job in jobs[:TRIED]:
            start = time.perf_counter()
            job(scratch)
            quickest_s = min(quickest_s, time.perf_counter() - start)
        _share(jobs[TRIED:], self._threads if quickest_s < SLOW_S else THREADS)


def _share(jobs: Sequence[Job], threads: int) -> None:
    if len(jobs) < 2 or threads == 1:
        _do(jobs)
        return
    with ThreadPoolExecutor(threads) as pool:
        # A task per thread: one per job would cost more than the job.
        list(pool.map(_do, [jobs[number::threads] for number in range(threads)]))


def _do(jobs: Iterable[Job]) -> None:
    scratch = Scratch()
    for job in jobs:
        job(scratch)
