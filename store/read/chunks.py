"""Features of many rows at once, straight from the bytes of their store shards.

Zarr decodes each chunk by itself, at about a millisecond apiece. In a store shard the rows lie as they are, so that the
rows of one side of one teacher are gathered by one call of NumPy: out of mapped files where the shards can be mapped,
else out of a buffer that the chunks were read into (`stored_side.py`).

Axes: B rows that were asked for, D a teacher's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from store.format.arrays import Side
from store.io.fetching import THREADS
from store.io.folder import Folder

from .reader import FeatureStore
from .stored_side import RecycledArrays, StoredSide

SIDES: tuple[Side, Side] = ("image", "text")

Rows: TypeAlias = npt.NDArray[np.int64]
Features: TypeAlias = npt.NDArray[np.floating[Any]]
Found: TypeAlias = dict[tuple[str, Side], Features]


@dataclass(kw_only=True, frozen=True, slots=True)
class Ask:
    """Features to read.

    Attributes:
        rows_B: row numbers in any order; each teacher is asked for all of them.
        soon: rows that the next call will ask of the same teachers. Chunks that are read now and hold some of them are
            kept until then, so that rows in the order of training have each chunk read once.
    """

    teachers: tuple[str, ...]
    rows_B: Rows
    soon: Rows | None = None


class ChunkReader:
    """Reads features of many rows at once. One call at a time, from whatever thread.

    What it holds, beside the arrays of this and the next call, does not grow with the store, but for 8 bytes per chunk.

    Args:
        store: what is committed is as of when its receipts were read.
        threads: that read where reading is quick, as from the page cache; where it is not, 16 do.
    """

    def __init__(self, store: FeatureStore, *, threads: int = 2) -> None:
        self._store, self._threads = store, threads
        self._slow = not isinstance(store.location, Folder)
        self._arrays = RecycledArrays()
        self._sides: dict[tuple[str, Side], StoredSide] = {}

    def read(self, rows_B: Rows, *, teacher: str, side: Side) -> Features:
        """Return features of some rows, as `FeatureStore.read` does.

        Raises:
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        return self._read([(teacher, side, Ask(teachers=(teacher,), rows_B=rows_B))])[teacher, side]

    def read_many(self, asks: Sequence[Ask]) -> Found:
        """Return features of both sides by teacher and side, (B, D) each; zeros where the status is not ok.

        Args:
            asks: no teacher is in two of them.

        Raises:
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        return self._read([(name, side, ask) for ask in asks for name in ask.teachers for side in SIDES])

    def _read(self, wanted: Sequence[tuple[str, Side, Ask]]) -> Found:
        found: Found = {}
        gathers: list[Callable[[], None]] = []
        for name, side, ask in wanted:
            if len(ask.rows_B) and not 0 <= ask.rows_B.min() <= ask.rows_B.max() < self._store.info.rows:
                bounds = f"rows {ask.rows_B.min()} to {ask.rows_B.max()}"
                raise IndexError(f"{bounds} of a store that has {self._store.info.rows}")
            stored = self._side(name, side)
            out_BD = found[name, side] = self._arrays.empty((len(ask.rows_B), stored.width), stored.dtype)
            if stored.maps(ask.rows_B):
                gathers.append(partial(stored.gather, ask.rows_B, out_BD))
            else:
                threads = THREADS if self._slow else self._threads
                self._slow = stored.read(ask.rows_B, out_BD, soon=ask.soon, arrays=self._arrays, threads=threads)
        if self._threads > 1 < len(gathers):
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(lambda gather: gather(), gathers))
        else:
            for gather in gathers:
                gather()
        self._arrays.trim()
        return found

    def _side(self, teacher: str, side: Side) -> StoredSide:
        if (teacher, side) not in self._sides:
            self._sides[teacher, side] = StoredSide(self._store, teacher, side)
        return self._sides[teacher, side]
