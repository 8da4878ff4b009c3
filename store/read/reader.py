"""Reads a feature store: receipts say which features are committed, store shards hold them."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from store.config.problems import it_has, show
from store.corpus.image_source import ImageSource
from store.errors import StoreError
from store.format.arrays import array_names, shard_key
from store.format.pairs import PairTable
from store.format.promote import next_folder
from store.format.records import SIDES, Receipt, Side, Spec, StoreInfo, read_record, read_store_info, spec_key
from store.io.fetching import fetch_all
from store.io.location import Location, locate

from .arguments import bounds_of, one_of, row_numbers, selection_of
from .categories import read_categories
from .chunks import ChunkReader
from .pixel_cache import PixelCache
from .present_pairs import PresentPairs
from .selection import Selection, available
from .shards import COLUMN_DTYPES, Verify, read_column
from .units import Unit, UnitChangedError, Units, committed_rows

EXTRACT = "python -m extract run --pipeline NAME"

EVERY = slice(None)
"""All rows."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Known:
    """The knowledge of a process about a store: its shape, and by teacher the spec and the committed units."""

    info: StoreInfo
    specs: dict[str, Spec]
    units: dict[str, dict[int, Unit]]


class FeatureStore:
    """A feature store, open for reading.

    Ranges without a valid receipt read as missing, whatever bytes lie in the arrays.

    Args:
        corpus_root: where the images lie, if the corpus moved since it was indexed.
        allow: places beside it that single images may be read from, see `store.corpus.access.Access`.
        verify: when bytes are compared with the checksums of their receipt: when they are first read, or each time.

    Raises:
        StoreNotFoundError: no store is there.
        FormatVersionError: it is of another version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Location,
        *,
        corpus_root: str | os.PathLike[str] | None = None,
        allow: Sequence[str] = (),
        verify: Verify = "first",
    ) -> None:
        self.location, self.verify = locate(path), one_of(verify, get_args(Verify), what="verify")
        if isinstance(allow, str) or not isinstance(allow, Sequence):
            raise StoreError(f"allow: expected a list of places, got {allow!r}")
        self.info = read_store_info(self.location)
        self.images = ImageSource(corpus_root or self.info.corpus_root, allow=allow)
        self._corpus_root, self._allow = corpus_root, allow
        self._specs: dict[str, Spec] = {}
        self._units: dict[str, Units[Receipt]] = {}
        # Through a weak reference, so that what is mapped is let go with the store.
        self._reader = ChunkReader(weakref.proxy(self))

    def reopen(self) -> FeatureStore:
        """Return the store as it is now."""
        return FeatureStore(self.location, corpus_root=self._corpus_root, allow=self._allow, verify=self.verify)

    @cached_property
    def pairs(self) -> PairTable:
        """The pair table."""
        return self._of_pairs.table

    @cached_property
    def pixels(self) -> PixelCache:
        """The images that the store holds itself.

        Raises:
            IncompleteStoreError: it holds none.
        """
        return PixelCache(self.location, info=self.info)

    @cached_property
    def teachers(self) -> list[str]:
        """Ids of the teachers that have a spec, sorted."""
        keys = (PurePosixPath(key) for key, _ in self.location.list("specs"))
        return sorted(key.stem for key in keys if key.suffix == ".json")

    def spec(self, teacher: str) -> Spec:
        """Return a teacher's spec as it was when it was first asked for.

        Raises:
            StoreError: the store has no such teacher.
        """
        if not isinstance(teacher, str):
            raise StoreError(f"teacher: expected a name, got {show(teacher)}")
        if teacher not in self._specs:
            if (found := _spec_now(self.location, teacher)) is None:
                raise StoreError(
                    f"{self.location}: no teacher {teacher!r} in this store{it_has(teacher, self.teachers)}"
                )
            self._specs[teacher] = found
        return self._specs[teacher]

    def units(self, teacher: str) -> Units[Receipt]:
        """Return a teacher's committed units, without what reading does not need."""
        if teacher not in self._units:
            spec = self.spec(teacher)
            self._units[teacher] = Units(
                self.location,
                info=self.info,
                folder=f"receipts/{teacher}",
                name=teacher,
                model=Receipt,
                spec_hash=spec.hash,
                spec_now=partial(_hash_now, self.location, teacher),
                keys=lambda range_id: [shard_key(teacher, name, range_id) for name in array_names(spec)],
                sides=len(spec.sides),
                of_pairs=self._of_pairs,
                again=EXTRACT,
                mend=f"python -m store repair {self.location} --deep takes out what is damaged; then {EXTRACT}",
                beside=f"{next_folder(spec.hash)}/",
            )
        return self._units[teacher]

    @cached_property
    def _of_pairs(self) -> PresentPairs:
        return PresentPairs(self.location, self.info)

    def known(self) -> Known:
        """Return what is committed, for another process that shall see the store as this one does."""
        return Known(
            info=self.info,
            specs={teacher: self.spec(teacher) for teacher in self.teachers},
            units={teacher: self.units(teacher).all() for teacher in self.teachers},
        )

    def adopt(self, known: Known) -> None:
        """See a store that was just opened as another process does, without reading what it has read."""
        self.info, self.teachers = known.info, sorted(known.specs)
        self._specs |= known.specs
        for teacher, units in known.units.items():
            self.units(teacher).adopt(units)

    def receipt(self, teacher: str, range_id: int) -> Receipt | None:
        """Return the receipt of a range as it is now; None where the range is not committed."""
        return self.units(teacher).record(range_id)

    def receipts(self, teacher: str) -> dict[int, Receipt]:
        """Return a teacher's receipts of its present spec and pairs, by range. They are not kept."""
        return {receipt.range: receipt for receipt in self.units(teacher).records()}

    def as_of(self, ranges: Mapping[str, Collection[int]]) -> FeatureStore:
        """Return the store as it was when only some ranges of these teachers were committed.

        Ranges that were committed since this store was opened may be among them; those beyond its rows are left out.

        Raises:
            StoreError: the store has no such teacher.
            IncompleteStoreError: one of them is not committed.
            SpecMismatchError: a teacher was replaced since this store was opened.
        """
        if not isinstance(ranges, Mapping) or not all(isinstance(one, int) for of in ranges.values() for one in of):
            raise StoreError(f"ranges: expected whole numbers by teacher, as {{'NAME': [0, 1]}}, got {ranges!r}")
        for teacher in ranges:
            self.spec(teacher)
        earlier = copy.copy(self)
        vars(earlier).update(_units={}, _reader=ChunkReader(weakref.proxy(earlier)), teachers=sorted(ranges))
        for teacher, numbers in ranges.items():
            earlier.units(teacher).only(numbers, known=self.units(teacher))
        return earlier

    def is_complete(self, teacher: str) -> bool:
        """Return whether every row of a teacher is committed."""
        return bool(self.committed_rows(teacher).all())

    def committed_rows(self, teacher: str) -> npt.NDArray[np.bool_]:
        """Return (N,) whether each row lies in a committed range of a teacher."""
        return committed_rows(self.units(teacher).all().values(), rows=self.info.rows)

    def status(self, teacher: str, rows: slice = EVERY) -> npt.NDArray[np.uint8]:
        """Return a teacher's status of some rows, (rows,) uint8; missing where nothing is committed."""
        return self._column(teacher, "status", rows)

    def similarity(self, teacher: str, rows: slice = EVERY) -> npt.NDArray[np.float32]:
        """Return the cosines of a teacher's image and text features, (rows,) float32; 0 where the status is not ok.

        Raises:
            StoreError: the teacher encodes images alone.
        """
        self.spec(teacher).require("text")
        return self._column(teacher, "similarity", rows)

    def _column(self, teacher: str, name: Literal["status", "similarity"], rows: slice) -> npt.NDArray[Any]:
        # Zarr takes 3.4 s for a column of 2.9 M rows: it decodes each of 11,000 chunks by itself.
        wanted = bounds_of(rows, self.info.rows)
        first, end = (min(wanted), max(wanted) + 1) if wanted else (0, 0)
        column_N, units = np.zeros(end - first, COLUMN_DTYPES[name]), self.units(teacher)

        def read(unit: Unit) -> None:
            try:
                values = read_column(self.location, self.spec(teacher), units, unit, name, verify=self.verify)
            except UnitChangedError as changed:
                read(changed.unit)
                return
            begin, stop = max(unit.start, first), min(unit.stop, end)
            column_N[begin - first : stop - first] = values[begin - unit.start : stop - unit.start]

        if rows == EVERY:
            units.all()
        numbers = [number for number, _, _ in self.info.blocks(first, end)]
        fetch_all(read, filter(None, units.among(numbers).values()))
        return column_N[:: wanted.step]

    def read(self, rows: slice | npt.NDArray[np.int64], *, teacher: str, side: Side) -> npt.NDArray[np.floating[Any]]:
        """Return features of some rows, (rows, D), unit norm; zeros where the status is not ok.

        They are float16, or float32 where the store holds float32 or int8 (the spec's ``stored_dtype``). Only receipts
        and chunks that hold these rows are read.

        Args:
            rows: a slice, row numbers in any order, below 0 counted from the end, or (N,) booleans.

        Raises:
            StoreError: there is no such row, teacher or side, or the teacher does not encode the side.
            CorruptChunkError: a range is committed, but not what is stored.
            SpecMismatchError: the teacher was replaced since the store was opened.
            IncompleteStoreError: a range that was committed no longer is.
        """
        one_of(side, SIDES, what="side")
        return self._reader.read(row_numbers(rows, self.info.rows), teacher=teacher, side=side)

    def modality(self) -> npt.NDArray[np.object_]:
        """Return the modality of all rows, (N,) strings, None where unknown."""
        return read_categories(self.location, "modality", self.info).texts()

    def available(self, selection: Selection = "all", *, teachers: list[str] | None = None) -> npt.NDArray[np.bool_]:
        """Return (N, T), in the order of ``teachers``: whether a selection lets a teacher teach a row.

        Args:
            selection: as in the pipeline's ``select:``.
            teachers: ids; all of the store's if left out.

        Raises:
            StoreError: the store has no such teacher.
            ConfigError: the selection is none, or does not fit the store.
        """
        if isinstance(teachers, str):
            raise StoreError(f"teachers: expected a list of names, got the text {teachers!r}")
        names = self.teachers if teachers is None else teachers
        if not names:
            return np.zeros((self.info.rows, 0), dtype=bool)
        by_teacher = available(
            selection_of(selection),
            status={name: self.status(name) for name in names},
            # Callables, because not every policy looks at them.
            similarity=self.similarity,
            one_sided={name for name in names if self.spec(name).sides != SIDES},
            modality=lambda: read_categories(self.location, "modality", self.info),
        )
        return np.stack([*by_teacher.values()], axis=1)


def _spec_now(location: Location, teacher: str) -> Spec | None:
    if not isinstance(teacher, str) or set(teacher) & set("/\\\0"):
        return None
    try:
        return read_record(location, spec_key(teacher), Spec)
    except FileNotFoundError:
        return None


def _hash_now(location: Location, teacher: str) -> str | None:
    found = _spec_now(location, teacher)
    return found.hash if found else None
