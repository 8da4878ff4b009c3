"""Features of many rows at once, straight from the bytes of their store shards.

The one way in which features are read, shared by `FeatureStore.read` and the trainer. Rows of one side of one teacher
are gathered by one call of NumPy (`stored_side.py`).

Axes: B rows that were asked for, D a teacher's width.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from store.format.records import Side
from store.io.fetching import THREADS
from store.io.folder import Folder

from .mapped import read_ahead
from .stored_side import RecycledArrays, StoredSide
from .units import UnitChangedError

if TYPE_CHECKING:
    from .reader import FeatureStore

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
    """Reads features of many rows at once. Calls from several threads follow each other.

    The arrays of one call hold one attempt at each unit, also where the unit is made anew meanwhile: what is found then
    is read from the beginning. What the reader holds, beside the arrays of this and the next call, does not grow with
    the store, but for a byte per chunk.

    Args:
        store: says what is committed, and how bytes are checked.
        threads: that read where reading is quick, as from the page cache; where it is not, 16 do.
    """

    def __init__(self, store: FeatureStore, *, threads: int = 2) -> None:
        self._store, self._threads = store, threads
        self._slow = not isinstance(store.location, Folder)
        self._arrays = RecycledArrays()
        self._sides: dict[tuple[str, Side], StoredSide] = {}
        self._lock = threading.Lock()

    def read(self, rows_B: Rows, *, teacher: str, side: Side) -> Features:
        """Return features of some rows, as `FeatureStore.read` does.

        Raises:
            StoreError: the teacher does not encode this side.
            CorruptChunkError: a unit is committed, but not what is stored.
            SpecMismatchError: the teacher was replaced since the store was opened.
            IncompleteStoreError: a unit that was committed no longer is.
        """
        return self._read([(teacher, side, Ask(teachers=(teacher,), rows_B=rows_B))])[teacher, side]

    def read_many(self, asks: Sequence[Ask]) -> Found:
        """Return features of each side that a teacher encodes, (B, D) each; zeros where the status is not ok.

        Args:
            asks: no teacher is in two of them.

        Raises:
            MMKDError: as `read`.
        """
        sides = self._store.spec
        return self._read([(name, side, ask) for ask in asks for name in ask.teachers for side in sides(name).sides])

    def _read(self, wanted: Sequence[tuple[str, Side, Ask]]) -> Found:
        for _, _, ask in wanted:
            if len(ask.rows_B) and not 0 <= ask.rows_B.min() <= ask.rows_B.max() < self._store.info.rows:
                bounds = f"rows {ask.rows_B.min()} to {ask.rows_B.max()}"
                raise IndexError(f"{bounds} of a store that has {self._store.info.rows}")
        of_teachers = [self._store.units(name) for name in dict.fromkeys(name for name, _, _ in wanted)]
        with self._lock:
            while True:
                before = [units.changes for units in of_teachers]
                with contextlib.suppress(UnitChangedError):
                    found = self._attempt(wanted)
                    if before == [units.changes for units in of_teachers]:
                        return found
                # All of it again: what was filled in may be of the attempt before.

    def _attempt(self, wanted: Sequence[tuple[str, Side, Ask]]) -> Found:
        found: Found = {}
        mapped: list[tuple[StoredSide, Ask, Features]] = []
        for name, side, ask in wanted:
            stored = self._side(name, side)
            out_BD = found[name, side] = self._arrays.empty((len(ask.rows_B), stored.width), stored.dtype)
            if stored.maps:
                mapped.append((stored, ask, out_BD))
            else:
                threads = THREADS if self._slow else self._threads
                self._slow = stored.fill(ask.rows_B, out_BD, soon=ask.soon, arrays=self._arrays, threads=threads)

        def fill(job: tuple[StoredSide, Ask, Features], asked: Future[None]) -> None:
            stored, ask, out_BD = job
            asked.result()
            stored.fill(ask.rows_B, out_BD, soon=ask.soon, arrays=self._arrays, threads=1)

        # The disk goes on reading for the sides behind while the rows of one are compared and copied.
        with ThreadPoolExecutor(1) as disk, ThreadPoolExecutor(self._threads) as pool:
            ahead = [disk.submit(read_ahead, stored.ahead(ask.rows_B)) for stored, ask, _ in mapped]
            list(pool.map(fill, mapped, ahead))
        self._arrays.trim()
        return found

    def _side(self, teacher: str, side: Side) -> StoredSide:
        if (teacher, side) not in self._sides:
            store, spec = self._store, self._store.spec(teacher)
            spec.require(side)
            self._sides[teacher, side] = StoredSide(
                store.location,
                spec,
                side,
                units=store.units(teacher),
                verify=store.verify,
                sides=sum(len(store.spec(name).sides) for name in store.teachers),
            )
        return self._sides[teacher, side]
