"""Finds the rows whose features are nearest to one row's, by exact search range by range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from store.errors import StoreError
from store.format.records import Side, Status
from store.read.reader import FeatureStore


@dataclass(kw_only=True, frozen=True, slots=True)
class Neighbor:
    """One row and its cosine to the row that was asked for."""

    row: int
    cosine: float
    key: str
    modality: str | None
    caption: str | None


def neighbors(
    store: FeatureStore,
    row: int,
    *,
    teacher: str,
    side: Side,
    count: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Neighbor]:
    """Return the nearest ok rows by cosine, the row itself left out; equal cosines in the order of rows.

    Memory is bounded by a range of features, whatever the size of the store.

    Args:
        row: a row that is ok under the teacher.

    Raises:
        StoreError: there is no such teacher, or the row has no feature under it.
    """
    ok_N = store.status(teacher) == Status.OK
    if not ok_N[row]:
        raise StoreError(
            f"{store.location}: row {row} has no feature under {teacher}",
            hint=f"python -m store row {store.location} {row} says why",
        )
    query_D = store.read(np.array([row]), teacher=teacher, side=side)[0].astype(np.float32)
    best_rows, best_cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for _, start, stop in store.info.blocks(0, store.info.rows):
        rows = start + np.flatnonzero(ok_N[start:stop])
        rows = rows[rows != row]
        if len(rows):
            features_BD = store.read(slice(start, stop), teacher=teacher, side=side)[rows - start].astype(np.float32)
            length_B = np.linalg.norm(features_BD, axis=1) * np.linalg.norm(query_D)
            best_rows = np.concatenate([best_rows, rows])
            best_cosines = np.concatenate([best_cosines, features_BD @ query_D / length_B])
            order = np.lexsort((best_rows, -best_cosines))[:count]
            best_rows, best_cosines = best_rows[order], best_cosines[order]
        advance(stop - start)
    columns = ["key", "modality", "caption"]
    return [
        Neighbor(row=found, cosine=cosine, **store.pairs.read(found, found + 1, columns).to_pylist()[0])
        for found, cosine in zip(best_rows.tolist(), best_cosines.tolist(), strict=True)
    ]
