"""The rows of a report: drawn once with a seed, so that all teachers are read in the same few chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.records import SIDES, Side, Status
from store.inspect.feature_statistics import draw_rows
from store.read.reader import FeatureStore

SPREAD = 4
"""A chunk gives a fourth of its rows, so that a sample covers four times as many places of a sorted corpus."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Sample:
    """Some rows of a store and their features.

    Attributes:
        rows_K: ascending.
        of_rows: rows that are ok under any teacher, of which they were drawn.
        ok_KT: whether each teacher has a feature of a row, in the order of ``teachers``.
        features: by side and teacher (K, D); zeros where a row is not ok.
    """

    seed: int
    teachers: tuple[str, ...]
    rows_K: npt.NDArray[np.int64]
    of_rows: int
    ok_KT: npt.NDArray[np.bool_]
    features: dict[Side, dict[str, npt.NDArray[np.floating[Any]]]]

    def ok(self, teacher: str) -> npt.NDArray[np.bool_]:
        """Return (K,) whether a teacher has a feature of each row."""
        return self.ok_KT[:, self.teachers.index(teacher)]


def draw_sample(
    store: FeatureStore,
    status: Mapping[str, npt.NDArray[np.uint8]],
    *,
    rows: int,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Sample:
    """Draw at most ``rows`` rows that are ok under any teacher, and read their features.

    Memory holds ``rows`` features of each side of each teacher.

    Args:
        status: of all rows by teacher, (N,).
        advance: told after each teacher.
    """
    ok_TN = np.array([status[name] == Status.OK for name in store.teachers]).reshape(-1, store.info.rows)
    any_N: npt.NDArray[np.bool_] = np.any(ok_TN, axis=0)
    drawn = draw_rows(any_N, chunk_rows=store.info.chunk_rows, rows=SPREAD * rows, seed=seed)
    if len(drawn) > rows:
        drawn = np.sort(np.random.default_rng(seed).choice(drawn, rows, replace=False))
    features: dict[Side, dict[str, npt.NDArray[np.floating[Any]]]] = {side: {} for side in SIDES}
    for name in store.teachers:
        for side in store.spec(name).sides:
            features[side][name] = store.read(drawn, teacher=name, side=side)
        advance(1)
    return Sample(
        seed=seed,
        teachers=tuple(store.teachers),
        rows_K=drawn,
        of_rows=int(any_N.sum()),
        ok_KT=ok_TN[:, drawn].T,
        features=features,
    )
