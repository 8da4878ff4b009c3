"""Compares two stores: shape, pairs, specs, committed rows, and the features of rows committed in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store.format.pairs import PAIR_SCHEMA
from store.format.records import SIDES, Side, Status
from store.read.reader import FeatureStore

EXAMPLES = 10
"""Keys that are named of each kind."""

_PLACES = ("row", "uri", "member")
"""Columns with the place of a pair, which are not compared."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Keys:
    """Some keys: how many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class PairsDifference:
    """Differences of two pair tables in the rows that both have, and in their keys.

    Attributes:
        ranges_equal: how many of A's ranges are the same in both.
        ranges_different: the others, of those that both have.
        keys_only_in_a, keys_only_in_b: of the whole tables.
    """

    rows: tuple[int, int]
    ranges_equal: int = 0
    ranges_different: list[int] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)
    keys_only_in_a: Keys = field(default_factory=Keys)
    keys_only_in_b: Keys = field(default_factory=Keys)

    @property
    def equal(self) -> bool:
        """Return whether both tables hold the same pairs in the same rows."""
        return self.rows[0] == self.rows[1] and not self.ranges_different


@dataclass(kw_only=True, slots=True)
class RangeDifference:
    """Differences of one teacher's values in one of A's ranges.

    Attributes:
        range: its number in A.
        status: in how many rows it differs; features are compared where both are ok.
        max_abs: largest difference of similarity and of each side that the teacher encodes in both.
        min_cosine: smallest cosine of A's and B's feature of a row, by side; None where no row is ok in both.
    """

    range: int
    rows: tuple[int, int]
    status: int
    max_abs: dict[str, float]
    min_cosine: dict[str, float | None]


@dataclass(kw_only=True, slots=True)
class TeacherDifference:
    """Differences of one teacher's features.

    Attributes:
        spec: one line per field that differs.
        rows_only_in_a, rows_only_in_b: rows committed in one alone.
        ranges_equal: A's ranges of which the rows committed in both hold the same values.
    """

    spec: list[str]
    rows_only_in_a: int = 0
    rows_only_in_b: int = 0
    ranges_equal: int = 0
    different: list[RangeDifference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Return whether spec, committed rows and values are the same."""
        return not (self.spec or self.rows_only_in_a or self.rows_only_in_b or self.different)


@dataclass(kw_only=True, slots=True)
class Difference:
    """The result of ``python -m store diff``.

    Attributes:
        shape: rows, range_rows and chunk_rows of A and B; the last two are no data.
    """

    a: str
    b: str
    shape: dict[str, tuple[int, int]]
    pairs: PairsDifference
    teachers_only_in_a: list[str]
    teachers_only_in_b: list[str]
    teachers: dict[str, TeacherDifference]

    @property
    def equal(self) -> bool:
        """Return whether both hold the same pairs and the same features."""
        names = self.teachers_only_in_a or self.teachers_only_in_b
        return self.pairs.equal and not names and all(teacher.equal for teacher in self.teachers.values())

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; docs/store.md describes them."""
        return {"equal": self.equal, **asdict(self)}


def diff(a: FeatureStore, b: FeatureStore, *, advance: Callable[[int], object] = lambda _: None) -> Difference:
    """Compare two stores.

    Rows are compared by number. Where B has more, because rows were appended, those that both have are compared.
    Bytes are not read where the receipts already say that they are the same. Results are counted in A's ranges.
    """
    ours, theirs = set(a.teachers), set(b.teachers)
    teachers = {}
    for name in sorted(ours & theirs):
        teachers[name] = _teacher(a, b, name)
        advance(1)
    names = ("rows", "range_rows", "chunk_rows")
    return Difference(
        a=str(a.location),
        b=str(b.location),
        shape={name: (getattr(a.info, name), getattr(b.info, name)) for name in names},
        pairs=_pairs(a, b),
        teachers_only_in_a=sorted(ours - theirs),
        teachers_only_in_b=sorted(theirs - ours),
        teachers=teachers,
    )


def _pairs(a: FeatureStore, b: FeatureStore) -> PairsDifference:
    found = PairsDifference(rows=(a.info.rows, b.info.rows))
    both = min(found.rows)
    names = [name for name in PAIR_SCHEMA.names if name not in _PLACES]
    keys: tuple[list[pa.ChunkedArray], list[pa.ChunkedArray]] = ([], [])
    for range_id, start, stop in a.info.blocks(0, both):
        left, right = (store.pairs.read(start, stop, names) for store in (a, b))
        columns = {name: _unequal(left[name], right[name]) for name in names if not left[name].equals(right[name])}
        if not columns:
            found.ranges_equal += 1
            continue
        found.ranges_different.append(range_id)
        for name, count in columns.items():
            found.columns[name] = found.columns.get(name, 0) + count
        keys[0].append(left["key"])
        keys[1].append(right["key"])
    for store, list_of in zip((a, b), keys, strict=True):
        list_of.append(store.pairs.read(both, store.info.rows, ["key"])["key"])
    ours, theirs = (pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string()) for parts in keys)
    found.keys_only_in_a, found.keys_only_in_b = _only(ours, theirs), _only(theirs, ours)
    return found


def _unequal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> int:
    ours, theirs = (column.to_numpy(zero_copy_only=False).astype(object) for column in (left, right))
    # NaN stands for null in a column of integers; it differs from itself.
    same = (ours == theirs) | ((ours != ours) & (theirs != theirs))  # noqa: PLR0124
    return int(np.count_nonzero(~same.astype(bool)))


def _only(keys: pa.ChunkedArray, others: pa.ChunkedArray) -> Keys:
    alone = keys.filter(pc.invert(pc.is_in(keys, value_set=others)))
    return Keys(count=len(alone), first=alone.slice(0, EXAMPLES).to_pylist())


def _teacher(a: FeatureStore, b: FeatureStore, name: str) -> TeacherDifference:
    found = TeacherDifference(spec=a.spec(name).difference(b.spec(name)))
    committed = [store.committed_rows(name) for store in (a, b)]
    both = min(a.info.rows, b.info.rows)
    shared_N = committed[0][:both] & committed[1][:both]
    found.rows_only_in_a, found.rows_only_in_b = (int(rows_N.sum() - shared_N.sum()) for rows_N in committed)
    statuses = [store.status(name, slice(both)) for store in (a, b)]
    sides = [side for side in SIDES if all(side in store.spec(name).sides for store in (a, b))]
    # Of one that encodes images alone in either store, similarities are not compared.
    similarities = [
        store.similarity(name, slice(both)) if len(sides) == len(SIDES) else np.zeros(both, np.float32)
        for store in (a, b)
    ]
    same_shape = (a.info.range_rows, a.info.chunk_rows) == (b.info.range_rows, b.info.chunk_rows)
    for range_id, start, stop in a.info.blocks(0, both):
        rows = start + np.flatnonzero(shared_N[start:stop])
        if not len(rows):
            continue
        if same_shape and _same_objects(a, b, name, range_id):
            found.ranges_equal += 1
            continue
        different = _range(
            range_id,
            (start, stop),
            [store_status[rows] for store_status in statuses],
            [store_similarity[rows] for store_similarity in similarities],
            {side: [store.read(rows, teacher=name, side=side) for store in (a, b)] for side in sides},
        )
        if different is None:
            found.ranges_equal += 1
        else:
            found.different.append(different)
    return found


def _same_objects(a: FeatureStore, b: FeatureStore, teacher: str, range_id: int) -> bool:
    receipts = [store.receipt(teacher, range_id) for store in (a, b)]
    objects = [{key: stored.sha256 for key, stored in receipt.objects.items()} for receipt in receipts if receipt]
    return len(objects) == 2 and objects[0] == objects[1]


def _range(
    range_id: int,
    rows: tuple[int, int],
    status: list[npt.NDArray[np.uint8]],
    similarity: list[npt.NDArray[np.float32]],
    features: dict[Side, list[npt.NDArray[np.floating[Any]]]],
) -> RangeDifference | None:
    """Compare the values of some rows of A and B in a range; None if they are the same."""
    same_width = all(left.shape == right.shape for left, right in features.values())
    pairs: list[list[npt.NDArray[Any]]] = [status, similarity, *features.values()]
    if same_width and all(np.array_equal(left, right) for left, right in pairs):
        return None
    ok = (status[0] == Status.OK) & (status[1] == Status.OK)
    max_abs: dict[str, float] = {"similarity": _largest(similarity[0][ok] - similarity[1][ok])}
    min_cosine: dict[str, float | None] = {}
    for side, (left, right) in features.items():
        if not same_width:
            continue
        ours, theirs = left[ok].astype(np.float32), right[ok].astype(np.float32)
        max_abs[side] = _largest(ours - theirs)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosine = np.einsum("nd,nd->n", ours, theirs) / np.where(norms > 0, norms, 1)
        min_cosine[side] = float(cosine.min()) if ok.any() else None
    changed = int(np.count_nonzero(status[0] != status[1]))
    return RangeDifference(range=range_id, rows=rows, status=changed, max_abs=max_abs, min_cosine=min_cosine)


def _largest(differences: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.abs(differences).max()) if differences.size else 0.0
