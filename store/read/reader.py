"""Reads a feature store: receipts say which features are committed, arrays hold them."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from store.corpus.image_source import ImageSource
from store.errors import IncompleteStoreError, StoreError
from store.format.arrays import ArrayName, Side, open_arrays, restored, rows_in_order, shard_key
from store.format.pairs import PairTable
from store.format.records import Receipt, Spec, read_record, read_store_info, spec_key
from store.io.fetching import fetch_all
from store.io.location import Location, locate

from .categories import read_categories
from .pixel_cache import PixelCache
from .receipts import committed_rows, read_receipts
from .selection import Selection, available

COLUMN_DTYPES: dict[str, np.dtype[Any]] = {"status": np.dtype(np.uint8), "similarity": np.dtype(np.float32)}


class FeatureStore:
    """A feature store, open for reading.

    Ranges without a valid receipt read as missing, whatever bytes lie in the arrays.

    Args:
        corpus_root: where the images lie, if the corpus moved since it was indexed.

    Raises:
        StoreNotFoundError: no store is there.
        FormatVersionError: it is of another version.
    """

    def __init__(
        self, path: str | os.PathLike[str] | Location, *, corpus_root: str | os.PathLike[str] | None = None
    ) -> None:
        self.location = locate(path)
        self.info = read_store_info(self.location)
        self.images = ImageSource(corpus_root or self.info.corpus_root)
        self._receipts: dict[str, dict[int, Receipt]] = {}
        self._opened: dict[str, dict[ArrayName, zarr.Array]] = {}

    @cached_property
    def pairs(self) -> PairTable:
        """The pair table."""
        return PairTable(self.location, self.info)

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
        """Return a teacher's spec.

        Raises:
            StoreError: the store has no such teacher.
        """
        try:
            return read_record(self.location, spec_key(teacher), Spec)
        except FileNotFoundError as error:
            known = ", ".join(self.teachers) or "none yet"
            raise StoreError(f"{self.location}: no teacher {teacher!r} in this store; it has {known}") from error

    def receipts(self, teacher: str) -> dict[int, Receipt]:
        """Return a teacher's receipts of its present spec, by range; read once per open store."""
        if teacher not in self._receipts:
            spec_hash, folder = self.spec(teacher).hash, f"receipts/{teacher}"
            self._receipts[teacher] = read_receipts(self.location, folder, Receipt, spec_hash=spec_hash)
        return self._receipts[teacher]

    def as_of(self, ranges: Mapping[str, Collection[int]]) -> FeatureStore:
        """Return the store as it was when only some ranges of these teachers were committed.

        Receipts are read again, because ranges may have been committed since this store was opened.

        Raises:
            IncompleteStoreError: one of them is not committed.
        """
        earlier = copy.copy(self)
        chosen: dict[str, dict[int, Receipt]] = {}
        vars(earlier).update(_receipts={}, _opened={}, teachers=sorted(ranges))
        for teacher, numbers in ranges.items():
            receipts = earlier.receipts(teacher)
            missing = sorted(set(numbers) - set(receipts))
            if missing:
                raise IncompleteStoreError(
                    f"{self.location}: {len(missing)} ranges of {teacher} that were committed no longer are, such as "
                    f"{missing[0]}",
                    hint="python -m extract run --pipeline NAME makes them anew",
                )
            chosen[teacher] = {number: receipts[number] for number in numbers}
        vars(earlier).update(_receipts=chosen)
        return earlier

    def _arrays(self, teacher: str) -> dict[ArrayName, zarr.Array]:
        if teacher not in self._opened:
            self._opened[teacher] = open_arrays(self.location, teacher)
        return self._opened[teacher]

    def is_complete(self, teacher: str) -> bool:
        """Whether every row of a teacher is committed."""
        return bool(self.committed_rows(teacher).all())

    def committed_rows(self, teacher: str) -> npt.NDArray[np.bool_]:
        """Return (N,) whether each row lies in a committed range of a teacher."""
        return committed_rows(self.receipts(teacher).values(), rows=self.info.rows)

    def status(self, teacher: str) -> npt.NDArray[np.uint8]:
        """Return a teacher's status of all rows, (N,) uint8; missing where nothing is committed."""
        return self._column(teacher, "status")

    def similarity(self, teacher: str) -> npt.NDArray[np.float32]:
        """Return the cosines of a teacher's image and text features, (N,) float32; 0 where the status is not ok."""
        return self._column(teacher, "similarity")

    def _column(self, teacher: str, name: Literal["status", "similarity"]) -> npt.NDArray[Any]:
        # Zarr takes 3.4 s for a column of 2.9 M rows: it decodes each of 11,000 chunks by itself. Where the chunks of a
        # shard lie in order, all rows are taken at once, in a hundredth of the time. Zarr reads the other shards.
        dtype = COLUMN_DTYPES[name]
        column_N = np.zeros(self.info.rows, dtype)

        def read(receipt: Receipt) -> None:
            start, stop = receipt.start, receipt.stop
            try:
                data = self.location.read(shard_key(teacher, name, receipt.range))
            except FileNotFoundError:
                data = b""
            values = rows_in_order(data, dtype=dtype, rows=stop - start, info=self.info)
            column_N[start:stop] = self._arrays(teacher)[name][start:stop] if values is None else values

        fetch_all(read, self.receipts(teacher).values())
        return column_N

    def read(self, rows: slice | npt.NDArray[np.int64], *, teacher: str, side: Side) -> npt.NDArray[np.floating[Any]]:
        """Return features of some rows, (rows, D), unit norm; zeros where the status is not ok.

        They are float16, or float32 where the store holds float32 or int8 (the spec's ``stored_dtype``).

        Args:
            rows: a slice, or row numbers in any order.
        """
        array = self._arrays(teacher)[side]
        committed_N = self.committed_rows(teacher)
        if isinstance(rows, slice) and array.shape[0] == self.info.rows:
            features_BD = restored(np.asarray(array[rows]))
            features_BD[~committed_N[rows]] = 0
            return features_BD
        picked_B = np.arange(self.info.rows)[rows]
        # Ascending and distinct, so that each chunk is read once, in whatever order rows are asked for.
        distinct, place_B = np.unique(picked_B[committed_N[picked_B]], return_inverse=True)
        read_KD = restored(np.asarray(array.oindex[distinct, :]))
        features_BD = np.zeros((len(picked_B), read_KD.shape[1]), read_KD.dtype)
        features_BD[committed_N[picked_B]] = read_KD[place_B]
        return features_BD

    def modality(self) -> npt.NDArray[np.object_]:
        """Return the modality of all rows, (N,) strings, None where unknown."""
        return read_categories(self.location, "modality", self.info).texts()

    def available(self, selection: Selection = "all", *, teachers: list[str] | None = None) -> npt.NDArray[np.bool_]:
        """Return (N, T), in the order of ``teachers``: whether a selection lets a teacher teach a row.

        Args:
            selection: as in the pipeline's ``select:``.
            teachers: ids; all of the store's if left out.
        """
        names = self.teachers if teachers is None else teachers
        if not names:
            return np.zeros((self.info.rows, 0), dtype=bool)
        by_teacher = available(
            selection,
            status={name: self.status(name) for name in names},
            # Callables, because not every policy looks at them.
            similarity=self.similarity,
            modality=lambda: read_categories(self.location, "modality", self.info),
        )
        return np.stack([*by_teacher.values()], axis=1)
