"""Counts each teacher's rows per modality, and those of them that a selection lets it teach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.format.records import SIDES, Status
from store.read.categories import read_categories
from store.read.reader import FeatureStore
from store.read.selection import Selection, available

UNKNOWN = "(unknown)"
"""Name for pairs without modality, as a key in YAML and JSON; no modality may have this name."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Counts:
    """Rows of one modality under one teacher; selected are part of ok, the others add up to all rows."""

    ok: int
    bad: int
    not_applicable: int
    missing: int
    selected: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Kept:
    """The feature pairs that a selection keeps.

    Attributes:
        feature_pairs: pairs of a row and a teacher that encodes both sides and may teach it.
        of_feature_pairs: those that are ok.
        teachers: by teacher and modality the rows that it may teach, those of images alone among them.
        rows_by_teachers: at place k the rows that k teachers may teach, from 0 to all teachers.
    """

    feature_pairs: int
    of_feature_pairs: int
    teachers: dict[str, dict[str, int]]
    rows_by_teachers: tuple[int, ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class Tally:
    """Rows of a store, counted once by all that coverage and selection ask for.

    Attributes:
        names: of the modalities that occur, `UNKNOWN` last if it does.
        rows: per teacher (M, 7, 2): rows by modality, status, and whether the teacher may teach them.
        paired: teachers that encode both sides.
    """

    names: tuple[str, ...]
    rows: dict[str, npt.NDArray[np.int64]]
    rows_by_teachers: tuple[int, ...]
    paired: frozenset[str]


def tally(
    store: FeatureStore,
    selection: Selection,
    *,
    status: Mapping[str, npt.NDArray[np.uint8]] | None = None,
) -> Tally:
    """Read status and modality, and similarity where the selection asks for it, apply the selection, and count.

    Args:
        status: by teacher (N,), if it was read already.

    Raises:
        ConfigError: the selection names a teacher or a modality that the store does not have.
    """
    modality = read_categories(store.location, "modality", store.info)
    status = status or {teacher: store.status(teacher) for teacher in store.teachers}
    may_teach = available(selection, status=status, similarity=store.similarity, modality=lambda: modality)
    shape = (len(modality.names) + 1, len(Status), 2)
    # Unknown, the code -1, becomes the first; one count of all three, because each costs a pass over all rows.
    place_N = (modality.codes_N.astype(np.int64) + 1) * (shape[1] * shape[2])
    there = np.bincount(modality.codes_N + 1, minlength=shape[0]) > 0
    rows = {}
    for teacher, status_N in status.items():
        counts = np.bincount(place_N + (2 * status_N + may_teach[teacher]), minlength=np.prod(shape))
        rows[teacher] = np.roll(counts.reshape(shape)[there], -int(there[0]), axis=0)
    teachers_N = np.zeros(store.info.rows, np.uint16)
    for may_teach_N in may_teach.values():
        teachers_N += may_teach_N.astype(np.uint16)
    return Tally(
        names=(*modality.names, UNKNOWN) if there[0] else modality.names,
        rows=rows,
        rows_by_teachers=tuple(np.bincount(teachers_N, minlength=len(status) + 1).tolist()),
        paired=frozenset(teacher for teacher in rows if store.spec(teacher).sides == SIDES),
    )


def coverage(counted: Tally) -> dict[str, dict[str, Counts]]:
    """Return rows by teacher and modality."""
    return {
        teacher: {name: _counts(table_S2) for name, table_S2 in zip(counted.names, table_MS2, strict=True)}
        for teacher, table_MS2 in counted.rows.items()
    }


def _counts(table_S2: npt.NDArray[np.int64]) -> Counts:
    rows_S = table_S2.sum(axis=1)
    ok, skipped, missing = (int(rows_S[status]) for status in (Status.OK, Status.NOT_APPLICABLE, Status.MISSING))
    return Counts(
        ok=ok,
        bad=int(rows_S.sum()) - ok - skipped - missing,
        not_applicable=skipped,
        missing=missing,
        selected=int(table_S2[:, 1].sum()),
    )


def kept(counted: Tally) -> Kept:
    """Return how many feature pairs a selection keeps."""
    teachers = {
        teacher: {name: int(count) for name, count in zip(counted.names, table[:, :, 1].sum(axis=1), strict=True)}
        for teacher, table in counted.rows.items()
    }
    return Kept(
        feature_pairs=sum(sum(teachers[name].values()) for name in counted.paired),
        of_feature_pairs=sum(int(counted.rows[name][:, Status.OK].sum()) for name in counted.paired),
        teachers=teachers,
        rows_by_teachers=counted.rows_by_teachers,
    )
