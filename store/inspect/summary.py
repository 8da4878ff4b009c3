"""A summary of a store, of its teachers and of one row."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.records import SIDES, Receipt, Side, Status
from store.read.categories import read_categories
from store.read.reader import FeatureStore

from .provenance import runs_of

NOT_STATED = "not stated"
"""Stands for the licence of pairs whose corpus names none."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Hole:
    """Consecutive rows that are not committed.

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
class TeacherSummary:
    """One teacher's share of a store, from its spec and receipts.

    Attributes:
        ranges_done: ranges of which every row is committed.
        holes: rows that are not committed, in order.
    """

    width: int
    dtype: str
    sides: tuple[Side, ...]
    spec_hash: str
    licence: str | None
    ranges_done: int
    rows_ok: int
    rows_bad: int
    rows_not_applicable: int
    rows_missing: int
    holes: tuple[Hole, ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class StoreSummary:
    """A store in numbers, for ``python -m store info``.

    Attributes:
        licences: number of pairs by their licence; `NOT_STATED` where the corpus states none.
        runs: number of runs whose units are there.
        first, last: when they finished their first and last unit, ISO 8601; None without units.
    """

    path: str
    version: int
    rows: int
    ranges: int
    range_rows: int
    chunk_rows: int
    corpus_root: str
    bytes_on_disk: int
    feature_pairs: int
    complete: bool
    licences: dict[str, int]
    runs: int
    first: str | None
    last: str | None
    teachers: dict[str, TeacherSummary]

    @property
    def steps(self) -> list[str]:
        """The commands that are useful next, each with what it does."""
        missing, bad = self._missing_and_bad
        steps = next_steps(self.path, missing=missing or not self.teachers, bad=bad)
        return steps or [f"python -m store coverage {shlex.quote(self.path)}  # counts rows by teacher and modality"]

    @property
    def _missing_and_bad(self) -> tuple[int, int]:
        found = self.teachers.values()
        return sum(teacher.rows_missing for teacher in found), sum(teacher.rows_bad for teacher in found)

    @property
    def lacks(self) -> str:
        """Missing and bad rows in words; empty where there are none."""
        missing, bad = self._missing_and_bad
        parts = [f"{missing:,} features of a row are missing"] * bool(missing)
        parts += [f"{bad:,} are bad" if missing else f"{bad:,} features of a row are bad"] * bool(bad)
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values, without the holes, which ``ls`` has."""
        content = asdict(self)
        for teacher in content["teachers"].values():
            del teacher["holes"]
        return content


def summarize(store: FeatureStore, *, receipts: Mapping[str, Collection[Receipt]] | None = None) -> StoreSummary:
    """Summarize a store from its records alone, without reading features.

    Args:
        receipts: by teacher, if they are known already.

    Raises:
        StoreError: the pair table is missing, cannot be opened, or lacks rows.
    """
    store.pairs.check()  # A store whose rows cannot be read is not complete.
    receipts = receipts or {name: store.receipts(name).values() for name in store.teachers}
    teachers = {name: _teacher(store, name, found) for name, found in receipts.items()}
    made = runs_of(chain.from_iterable(receipts.values()))
    licence = read_categories(store.location, "license", store.info)
    counts = np.bincount(licence.codes_N.astype(np.int64) + 1, minlength=len(licence.names) + 1).tolist()
    return StoreSummary(
        path=str(store.location),
        version=store.info.version,
        rows=store.info.rows,
        ranges=store.info.ranges,
        range_rows=store.info.range_rows,
        chunk_rows=store.info.chunk_rows,
        corpus_root=store.info.corpus_root,
        bytes_on_disk=sum(nbytes for _, nbytes in store.location.list()),
        feature_pairs=sum(summary.rows_ok for summary in teachers.values() if summary.sides == SIDES),
        complete=bool(teachers) and all(store.is_complete(name) for name in teachers),
        licences={name: count for name, count in zip((NOT_STATED, *licence.names), counts, strict=True) if count},
        runs=len(made),
        first=min((run.first for run in made), default=None),
        last=max((run.last for run in made), default=None),
        teachers=teachers,
    )


def next_steps(path: str, *, missing: int, bad: int) -> list[str]:
    """Return the commands that are useful next, each with what it does, where features are missing or rows bad."""
    steps = ["python -m extract run --pipeline NAME  # makes what is missing"] if missing else []
    return steps + ([f"python -m store quarantine {shlex.quote(path)}  # says why rows are bad"] if bad else [])


def intervals(marked_N: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the longest runs of marked places, each as its first and the one after its last, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked_N, [False]])))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def summarize_teachers(store: FeatureStore) -> dict[str, TeacherSummary]:
    """Summarize a store's teachers from specs and receipts alone."""
    return {name: _teacher(store, name, store.receipts(name).values()) for name in store.teachers}


def _teacher(store: FeatureStore, name: str, receipts: Collection[Receipt]) -> TeacherSummary:
    spec, info = store.spec(name), store.info
    holes = [
        Hole(rows=(start, stop), ranges=(start // info.range_rows, (stop - 1) // info.range_rows + 1))
        for start, stop in intervals(~store.committed_rows(name))
    ]
    counts = {
        status: sum(receipt.status_counts.get(status.name.lower(), 0) for receipt in receipts) for status in Status
    }
    missing = sum(hole.rows[1] - hole.rows[0] for hole in holes)
    ok, skipped = counts[Status.OK], counts[Status.NOT_APPLICABLE]
    return TeacherSummary(
        width=spec.embed_dim,
        dtype=spec.stored_dtype,
        sides=spec.sides,
        spec_hash=spec.hash,
        licence=str(spec.notes["licence"]) if spec.notes.get("licence") else None,
        ranges_done=sum(receipt.stop == info.bounds(receipt.range)[1] for receipt in receipts),
        rows_ok=ok,
        rows_bad=info.rows - missing - ok - skipped,
        rows_not_applicable=skipped,
        rows_missing=missing,
        holes=tuple(holes),
    )


def describe_row(store: FeatureStore, row: int) -> dict[str, Any]:
    """Return one pair and what each teacher made of it: status, norms of the stored features, similarity.

    Norm and similarity are None where the teacher does not encode the text.
    """
    pair: dict[str, Any] = store.pairs.read(row, row + 1).to_pylist()[0]
    rows = slice(row, row + 1)
    teachers: dict[str, Any] = {}
    for name in store.teachers:
        sides = store.spec(name).sides
        norms = {
            f"{side}_norm": _norm(store.read(rows, teacher=name, side=side)) if side in sides else None
            for side in SIDES
        }
        status = Status(int(store.status(name, rows)[0]))
        receipt = store.receipt(name, row // store.info.range_rows)
        bad = next((bad for bad in receipt.bad_rows if bad.row == row), None) if receipt else None
        teachers[name] = {
            "status": status.name.lower(),
            "reason": bad.reason if bad else None,
            **norms,
            "similarity": float(store.similarity(name, rows)[0]) if sides == SIDES else None,
        }
    return {**pair, "teachers": teachers}


def _norm(features_BD: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.linalg.norm(features_BD.astype(np.float32)))
