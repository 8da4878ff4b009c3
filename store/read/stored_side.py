"""One side of one teacher's features, from its store shards to the array where they are wanted.

Arrays with a compressor or another layout are left to Zarr.

Axes: B rows that were asked for, K chunks that hold them, D the teacher's width.
"""

from __future__ import annotations

import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.arrays import Side, chunks_of, restored
from store.io.fetching import SLOW_S
from store.io.folder import Folder

from .mapped import MAPS, QUICK_BYTES_PER_S, MappedFeatures
from .reader import FeatureStore
from .shards import PlainShards, is_plain

BLOCK_BYTES = 2**20
"""Bytes of rows that are copied at a time: about what a core's cache holds."""

SMALLEST_BYTES = 2**20
"""Smaller arrays are not worth keeping."""


class StoredSide:
    """The committed features of one side of one teacher. Used by one thread at a time.

    Attributes:
        width: D.
        dtype: of the features as they are read.
    """

    def __init__(self, store: FeatureStore, teacher: str, side: Side) -> None:
        spec, receipts, info = store.spec(teacher), store.receipts(teacher), store.info
        self._store, self._info, self._teacher, self._side, self.width = store, info, teacher, side, spec.embed_dim
        self._dtype = np.dtype(spec.stored_dtype)
        self.dtype = np.dtype(np.float32) if self._dtype == np.int8 else self._dtype
        self._chunk_bytes = info.chunk_rows * self.width * self._dtype.itemsize
        # Of a range that has grown since it was committed, only the first rows are.
        self._stops = np.zeros(info.ranges, np.int64)
        for receipt in receipts.values():
            self._stops[receipt.range] = receipt.stop
        plain = is_plain(store.location, spec, side, info=info)
        self._shards = PlainShards(store.location, spec, side, receipts=receipts, info=info) if plain else None
        self._mapped: MappedFeatures | None = None
        if self._shards and isinstance(store.location, Folder) and self._dtype != np.int8:
            limit = MAPS // (2 * len(store.teachers))
            self._mapped = MappedFeatures(
                self._shards, info=info, row_bytes=self.width * self._dtype.itemsize, limit=limit
            )
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}

    def maps(self, rows_B: npt.NDArray[np.int64]) -> bool:
        """Map the files that hold some rows. Returns False where they cannot be mapped.

        Raises:
            CorruptChunkError: one of the files is not as it was committed.
        """
        if self._mapped is None:
            return False
        wanted = np.zeros(self._info.ranges, bool)
        wanted[rows_B // self._info.range_rows] = True
        committed = np.flatnonzero(wanted & (self._stops > 0))
        whole = all(self._stops[number] == self._info.bounds(int(number))[1] for number in committed)
        return whole and self._mapped.cover(committed)

    def gather(self, rows_B: npt.NDArray[np.int64], out_BD: npt.NDArray[Any]) -> None:
        """Fill an array with rows that `maps` has mapped."""
        if self._mapped is not None:
            self._mapped.take(rows_B, out_BD)

    def read(
        self,
        rows_B: npt.NDArray[np.int64],
        out_BD: npt.NDArray[Any],
        *,
        soon: npt.NDArray[np.int64] | None,
        arrays: RecycledArrays,
        threads: int,
    ) -> bool:
        """Read the chunks that hold some rows, and fill an array with these rows. Returns whether reading was slow.

        Args:
            soon: rows of the next call; chunks that hold them are kept until then.

        Raises:
            CorruptChunkError: a unit is committed, but not what is stored.
        """
        if self._shards is None:
            out_BD[:] = self._store.read(rows_B, teacher=self._teacher, side=self._side)
            return False
        out_BD[rows_B >= self._stops[rows_B // self._info.range_rows]] = 0
        places = np.flatnonzero(rows_B < self._stops[rows_B // self._info.range_rows])
        rows = rows_B[places]
        chunks_K, in_buffer = np.unique(rows // self._info.chunk_rows, return_inverse=True)
        taken = in_buffer * self._info.chunk_rows + rows % self._info.chunk_rows
        buffer_K = arrays.empty((len(chunks_K), self._chunk_bytes), np.dtype(np.uint8))
        stored = buffer_K.reshape(-1).view(f"V{self._chunk_bytes // self._info.chunk_rows}")
        out_B = _whole_rows(out_BD)

        def copy(first: int) -> None:
            part = slice(first, first + block)
            values_BD = np.take(stored, taken[part]).view(self._dtype).reshape(-1, self.width)
            out_B[places[part]] = _whole_rows(restored(values_BD))

        block = max(1, BLOCK_BYTES // (self.width * self.dtype.itemsize))
        with ThreadPoolExecutor(threads) as pool:
            slow = self._fill(self._shards, buffer_K, chunks_K, pool)
            list(pool.map(copy, range(0, len(rows), block)))
        following = set() if soon is None else {*np.unique(soon // self._info.chunk_rows).tolist()}
        self._kept = {
            chunk: buffer_K[number].copy() for number, chunk in enumerate(chunks_K.tolist()) if chunk in following
        }
        return slow

    def _fill(
        self,
        shards: PlainShards,
        buffer_K: npt.NDArray[np.uint8],
        chunks_K: npt.NDArray[np.int64],
        pool: ThreadPoolExecutor,
    ) -> bool:
        """Read chunks into a buffer, those that lie one after the other at once. Returns whether that was slow."""
        ranges_K, places_K = np.divmod(chunks_K, chunks_of(self._info))
        read_K = np.ones(len(chunks_K), bool)
        for number, chunk in enumerate(chunks_K.tolist()):
            if chunk in self._kept:
                buffer_K[number], read_K[number] = self._kept[chunk], False

        def read(run: npt.NDArray[np.int64]) -> float:
            start, first = time.perf_counter(), run[0]
            shards.read_into(buffer_K[first : run[-1] + 1], int(ranges_K[first]), int(offsets_K[first]))
            return time.perf_counter() - start - len(run) * self._chunk_bytes / QUICK_BYTES_PER_S

        distinct = np.unique(ranges_K).tolist()
        offsets = dict(zip(distinct, pool.map(shards.offsets, distinct), strict=True))
        pairs = zip(ranges_K.tolist(), places_K.tolist(), strict=True)
        offsets_K = np.array([offsets[range_id][place] for range_id, place in pairs], np.int64)
        buffer_K[read_K & (offsets_K < 0)] = 0
        todo = np.flatnonzero(read_K & (offsets_K >= 0))
        follows = (np.diff(todo) == 1) & (np.diff(ranges_K[todo]) == 0)
        follows &= np.diff(offsets_K[todo]) == self._chunk_bytes
        runs = np.split(todo, np.flatnonzero(~follows) + 1) if len(todo) else []
        # The quickest decides, because any may be held up.
        return min(pool.map(read, runs), default=0.0) > SLOW_S


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
