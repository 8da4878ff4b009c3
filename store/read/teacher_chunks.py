"""One teacher's features on their way from store shards to the arrays where they are wanted.

Axes: B rows that were asked for, D the teacher's width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from store.format.arrays import Side, restored
from store.io.folder import Folder

from .mapped import MappedFeatures
from .reader import FeatureStore
from .recycled import Scratch
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
Job: TypeAlias = Callable[[Scratch], None]
"""Fills a part of an array; threads share jobs out, and each has a buffer of its own to read into."""


class TeacherChunks:
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
        self._mapped = {
            side: MappedFeatures(shards, info=store.info, width=self.width, dtype=self._dtype)
            for side, shards in self._shards.items()
            if isinstance(store.location, Folder) and self._dtype != np.int8
        }
        limit = PIECE_BYTES if isinstance(store.location, Folder) else REMOTE_PIECE_BYTES
        self._piece_chunks = max(1, limit // (store.info.chunk_rows * self._row_bytes))

    def gathers(self, rows_B: Rows, arrays: Found, *, sides: Iterable[Side]) -> list[Job] | None:
        """Return what fills arrays out of mapped files, one job per side; None if they cannot be mapped."""
        ranges = np.unique(rows_B // self._info.range_rows)
        committed = ranges[self._stops[ranges] > 0]
        # Of a range that has grown since it was committed, only the first rows are.
        if any(self._stops[number] != self._info.bounds(int(number))[1] for number in committed):
            return None
        if not all(side in self._mapped and self._mapped[side].cover(committed) for side in sides):
            return None
        return [partial(self._gather, self._mapped[side], rows_B, arrays[self._name, side]) for side in sides]

    def jobs(self, wanted: Sequence[SortedRows], arrays: Sequence[Found], *, sides: Iterable[Side]) -> list[Job]:
        """Return what fills arrays: of each, the places of its rows."""
        committed = [rows.part(rows.rows < self._stops[rows.rows // self._info.range_rows]) for rows in wanted]
        jobs: list[Job] = []
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

    def _gather(self, mapped: MappedFeatures, rows_B: Rows, out_BD: Features, _: Scratch) -> None:
        mapped.take(rows_B, out_BD)

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
