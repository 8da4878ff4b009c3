"""In which pieces rows are read, and where each row goes: pure functions of row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.format.records import StoreInfo


class SortedRows:
    """Rows in the order in which they are stored, and their places in an array.

    Args:
        rows_B: row numbers in any order.
        places: which of them, as positions; all if left out.

    Attributes:
        rows: ascending.
        places: of each, its position in ``rows_B``.
    """

    def __init__(self, rows_B: npt.NDArray[np.int64], *, places: npt.NDArray[np.intp] | None = None) -> None:
        places = np.arange(len(rows_B)) if places is None else places
        order = np.argsort(rows_B[places], kind="stable")
        self.places = places[order]
        self.rows = rows_B[self.places]
        next_row, next_place = np.diff(self.rows) == 1, np.diff(self.places) == 1
        # A stretch whose two ends have the same count is not interrupted.
        self._row_breaks = np.append(0, np.cumsum(~next_row))
        self._place_breaks = np.append(0, np.cumsum(~(next_row & next_place)))

    def part(self, which: npt.NDArray[np.bool_]) -> SortedRows:
        """Return some of them, itself if it is all."""
        if which.all():
            return self
        whole = np.empty(self.places.max() + 1, np.int64)
        whole[self.places] = self.rows
        return SortedRows(whole, places=self.places[which])

    def chunks(self, chunk_rows: int) -> npt.NDArray[np.int64]:
        """Return the chunks that hold them, ascending."""
        return np.unique(self.rows // chunk_rows)

    def are_consecutive(self, low: int, high: int) -> bool:
        """Whether the rows ``low`` to ``high`` (exclusive) of them follow each other."""
        return bool(self._row_breaks[low] == self._row_breaks[high - 1])

    def lie_as_stored(self, low: int, high: int) -> bool:
        """Whether those rows follow each other, and their places do too."""
        return bool(self._place_breaks[low] == self._place_breaks[high - 1])


@dataclass(kw_only=True, frozen=True, slots=True)
class Piece:
    """Consecutive chunks of one store shard, and the rows that are wanted of them.

    Attributes:
        range_id: the shard's range.
        chunks: first and last (exclusive), counted from the beginning of the shard.
        parts: per SortedRows, the first and the last (exclusive) that lie in them.
    """

    range_id: int
    chunks: tuple[int, int]
    parts: tuple[tuple[int, int], ...]

    def singles(self, wanted: Sequence[SortedRows], *, info: StoreInfo) -> list[Piece]:
        """Return its chunks one by one, without those of which nothing is wanted."""
        first = self.range_id * info.range_rows
        found = []
        for chunk in range(*self.chunks):
            edges = first + chunk * info.chunk_rows, first + (chunk + 1) * info.chunk_rows
            ends = (np.searchsorted(rows.rows, edges).tolist() for rows in wanted)
            parts = tuple((low, high) for low, high in ends)
            if any(low < high for low, high in parts):
                found.append(Piece(range_id=self.range_id, chunks=(chunk, chunk + 1), parts=parts))
        return found


def pieces(wanted: Sequence[SortedRows], *, info: StoreInfo, limit: int) -> list[Piece]:
    """Return the pieces that hold rows, ascending; no chunk is in two.

    Args:
        wanted: at least one.
    """
    chunk_rows, per_range = info.chunk_rows, info.range_rows // info.chunk_rows
    chunks = np.unique(np.concatenate([rows.chunks(chunk_rows) for rows in wanted]))
    if not len(chunks):
        return []
    begins = np.append(True, (np.diff(chunks) != 1) | (chunks[1:] % per_range == 0))
    run_start = np.maximum.accumulate(np.where(begins, np.arange(len(chunks)), 0))
    begins |= (np.arange(len(chunks)) - run_start) % limit == 0
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(chunks)) - 1
    first, stop = chunks[firsts], chunks[lasts] + 1
    lows = [np.searchsorted(rows.rows, first * chunk_rows).tolist() for rows in wanted]
    highs = [np.searchsorted(rows.rows, stop * chunk_rows).tolist() for rows in wanted]
    in_range = (first // per_range).tolist()
    return [
        Piece(
            range_id=range_id,
            chunks=(begin - range_id * per_range, end - range_id * per_range),
            parts=tuple((low[number], high[number]) for low, high in zip(lows, highs, strict=True)),
        )
        for number, (range_id, begin, end) in enumerate(zip(in_range, first.tolist(), stop.tolist(), strict=True))
    ]
