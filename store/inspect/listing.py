"""What ``python -m store ls`` prints: the teachers of a store, and the rows that each still lacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.read.reader import FeatureStore


@dataclass(kw_only=True, frozen=True, slots=True)
class Hole:
    """Rows side by side that are not committed.

    Attributes:
        rows: the first, and the one after the last.
        ranges: the ranges that they lie in: the first, and the one after the last.
    """

    rows: tuple[int, int]
    ranges: tuple[int, int]

    def __str__(self) -> str:
        """Name ranges and rows, the last ones included."""
        (first, after), (start, stop) = self.ranges, self.rows
        ranges = f"range {first}" if after == first + 1 else f"ranges {first}-{after - 1}"
        rows = f"row {start}" if stop == start + 1 else f"rows {start}-{stop - 1}"
        return f"{ranges} ({rows})"


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherListing:
    """One teacher of a store.

    Attributes:
        ranges_done: ranges of which every row is committed.
    """

    teacher: str
    spec_hash: str
    width: int
    dtype: str
    ranges_done: int
    ranges: int
    rows_missing: int
    holes: tuple[Hole, ...]


def intervals(marked_N: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the longest runs of marked places, each as its first and the one after its last, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked_N, [False]])))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def list_teachers(store: FeatureStore) -> list[TeacherListing]:
    """Return a store's teachers, from specs and receipts alone."""
    return [_listing(store, teacher) for teacher in store.teachers]


def _listing(store: FeatureStore, teacher: str) -> TeacherListing:
    spec, info = store.spec(teacher), store.info
    holes = [
        Hole(rows=(start, stop), ranges=(start // info.range_rows, (stop - 1) // info.range_rows + 1))
        for start, stop in intervals(~store.committed_rows(teacher))
    ]
    done = sum(receipt.stop == info.bounds(receipt.range)[1] for receipt in store.receipts(teacher).values())
    return TeacherListing(
        teacher=teacher,
        spec_hash=spec.hash,
        width=spec.embed_dim,
        dtype=spec.stored_dtype,
        ranges_done=done,
        ranges=info.ranges,
        rows_missing=sum(hole.rows[1] - hole.rows[0] for hole in holes),
        holes=tuple(holes),
    )
