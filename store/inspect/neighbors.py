"""Finds the rows whose features are nearest to one row's, by exact search range by range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
    """Return the ok rows nearest to a row, the row itself left out; see `nearest`.

    Args:
        row: a row that is ok under the teacher.

    Raises:
        StoreError: there is no such teacher, or the row has no feature under it.
    """
    if not store.status(teacher, slice(row, row + 1))[0] == Status.OK:
        raise StoreError(
            f"{store.location}: row {row} has no feature under {teacher}",
            hint=f"python -m store row {store.location} {row} says why",
        )
    query_D = store.read(np.array([row]), teacher=teacher, side=side)[0]
    return nearest(store, query_D, teacher=teacher, side=side, count=count, leave_out=row, advance=advance)


def nearest(
    store: FeatureStore,
    query_D: npt.NDArray[np.floating[Any]],
    *,
    teacher: str,
    side: Side,
    count: int,
    leave_out: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Neighbor]:
    """Return the ok rows whose features have the highest cosine to a feature; equal ones in the order of rows.

    Memory is bounded by a range of features, whatever the size of the store.

    Args:
        query_D: a feature of the teacher, of any length but 0.
        side: whose features are compared with it.
        leave_out: a row that is not returned.

    Raises:
        StoreError: there is no such teacher, or it does not encode this side.
    """
    store.spec(teacher).require(side)
    ok_N, query_D = store.status(teacher) == Status.OK, query_D.astype(np.float32)
    if leave_out is not None:
        ok_N[leave_out] = False
    best_rows, best_cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for _, start, stop in store.info.blocks(0, store.info.rows):
        rows = start + np.flatnonzero(ok_N[start:stop])
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
