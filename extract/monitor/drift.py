"""Extracts some rows again and compares them with the store: do its teachers still give the same features?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from extract.config import ExtractPipeline
from extract.estimate.scratch import scratch, scratch_run
from extract.run.run_spec import build_worker
from extract.teachers.stored import same_spec
from extract.worker.task import Task
from store.errors import IncompleteStoreError
from store.format.records import Spec, Status
from store.read.reader import FeatureStore

MIN_COSINE = 0.9999
"""The same weights and pixels reach this on any device: rounding to float16 costs 2e-7, another order of sums 1e-6."""

MIN_COSINE_ROUGH = 0.998
"""For features stored as int8, which costs up to 1e-3, or computed in 16 bits, where the batch matters as much."""

UNIT_ROWS = 8192
"""Rows that are extracted at once; more would only need more memory."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SideDrift:
    """Differences between one side's new and stored features.

    Attributes:
        min_cosine, p1_cosine, median_cosine: cosines of the stored and the new feature of each row.
        max_abs_difference: largest difference of any entry.
        worst_row: the row with the smallest cosine.
        below: rows whose cosine is below the threshold, the worst first.
    """

    min_cosine: float
    p1_cosine: float
    median_cosine: float
    max_abs_difference: float
    worst_row: int
    below: tuple[int, ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherDrift:
    """Differences between one teacher's new and stored features.

    Attributes:
        rows: number of rows that were compared: ok in the store and now.
        threshold: cosine that every row must reach.
        sides: by the sides that the teacher encodes; empty if no row could be compared.
        lost: rows that are ok in the store and bad now.
        gained: rows that are bad in the store and ok now; ``retry`` and ``run`` would repair them.
    """

    teacher: str
    rows: int
    threshold: float
    sides: Mapping[str, SideDrift]
    lost: tuple[int, ...]
    gained: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Return whether every compared row reaches the threshold, none was lost, and there was one to compare."""
        return bool(self.sides) and not self.lost and not any(side.below for side in self.sides.values())

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; docs/extraction.md describes them."""
        return {**asdict(self), "passed": self.passed}


def drift(
    store: FeatureStore,
    pipeline: ExtractPipeline,
    *,
    teachers: Sequence[str],
    rows: int,
    seed: int,
    root: str,
    min_cosine: float | None = None,
) -> list[TeacherDrift]:
    """Extract some committed rows again and compare them with the stored ones. Writes nothing to the store.

    Args:
        min_cosine: replaces the default, which depends on how features are computed and stored.

    Raises:
        SpecMismatchError: the store has features of another teacher than the pipeline's.
        IncompleteStoreError: nothing is committed.
    """
    specs = {name: same_spec(store, pipeline, name) for name in teachers}
    committed_N = np.logical_or.reduce([store.committed_rows(name) for name in teachers])
    drawn = draw(committed_N, rows=rows, seed=seed)
    if not len(drawn):
        raise IncompleteStoreError(
            f"{store.location}: holds no features yet of {', '.join(teachers)}", hint="python -m extract run"
        )
    with scratch() as place:
        pairs = store.pairs.take(drawn)
        size = min(UNIT_ROWS, len(drawn))
        spec = scratch_run(place, pipeline, list(specs.values()), pairs, root=root, range_rows=size)
        again = FeatureStore(place)
        with build_worker(spec) as worker:
            for range_id in range(again.info.ranges):
                worker.submit(Task(range_id=range_id, teachers=tuple(specs))).result()
        limits = {name: default_threshold(spec) if min_cosine is None else min_cosine for name, spec in specs.items()}
        return [_compare(store, again, name, drawn, threshold=limit) for name, limit in limits.items()]


def default_threshold(spec: Spec) -> float:
    """Return the cosine that a teacher's features must reach, by how they are computed and stored."""
    exact = spec.compute_dtype == "float32" and spec.stored_dtype != "int8"
    return MIN_COSINE if exact else MIN_COSINE_ROUGH


def draw(committed_N: npt.NDArray[np.bool_], *, rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw single committed rows, ascending; all of them if they are fewer than ``rows``."""
    candidates = np.flatnonzero(committed_N)
    if len(candidates) <= rows:
        return candidates
    return np.sort(np.random.default_rng(seed).choice(candidates, rows, replace=False))


def _compare(
    store: FeatureStore, again: FeatureStore, name: str, drawn: npt.NDArray[np.int64], *, threshold: float
) -> TeacherDrift:
    committed_K = store.committed_rows(name)[drawn]
    was_K, is_K = store.status(name)[drawn] == Status.OK, again.status(name) == Status.OK
    both_K = committed_K & was_K & is_K
    sides: dict[str, SideDrift] = {}
    for side in store.spec(name).sides if both_K.any() else ():
        old_BD = store.read(drawn[both_K], teacher=name, side=side).astype(np.float64)
        new_BD = again.read(np.flatnonzero(both_K), teacher=name, side=side).astype(np.float64)
        sides[side] = _compare_side(old_BD, new_BD, drawn[both_K], threshold=threshold)
    return TeacherDrift(
        teacher=name,
        rows=int(both_K.sum()),
        threshold=threshold,
        sides=sides,
        lost=tuple(drawn[committed_K & was_K & ~is_K].tolist()),
        gained=tuple(drawn[committed_K & ~was_K & is_K].tolist()),
    )


def _compare_side(
    old_BD: npt.NDArray[np.float64], new_BD: npt.NDArray[np.float64], rows_B: npt.NDArray[np.int64], *, threshold: float
) -> SideDrift:
    norms_B = np.linalg.norm(old_BD, axis=1) * np.linalg.norm(new_BD, axis=1)
    # A damaged feature of zeros or NaN has no cosine; it agrees with nothing.
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_B = np.nan_to_num((old_BD * new_BD).sum(axis=1) / norms_B, nan=-1.0)
    order = np.argsort(cosine_B, kind="stable")
    return SideDrift(
        min_cosine=float(cosine_B.min()),
        p1_cosine=float(np.quantile(cosine_B, 0.01)),
        median_cosine=float(np.median(cosine_B)),
        max_abs_difference=float(np.nan_to_num(np.abs(old_BD - new_BD), nan=np.inf).max()),
        worst_row=int(rows_B[order[0]]),
        below=tuple(rows_B[order[cosine_B[order] < threshold]].tolist()),
    )
