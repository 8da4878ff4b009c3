"""Opens the store of a run and selects the teachers and rows that take part."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store.errors import IncompleteStoreError, SpecMismatchError
from store.read.reader import FeatureStore, Known
from store.read.selection import Selection
from train.config import TrainPipeline
from train.runtime.ranks import ALONE, Ranks

log = logging.getLogger(__name__)

TRAINING_SPLIT = "train"
"""Split of the pair table that is trained on, together with pairs that state none."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RunTeachers:
    """The teachers of one run.

    A teacher without a committed range at the beginning takes no part: there was no feature to fit its statistics or
    projection to, and a resumed run must have the teachers that it began with.

    Attributes:
        names: in the store's order.
    """

    selection: Selection
    names: tuple[str, ...]

    @classmethod
    def of_run(cls, store: FeatureStore, selection: Selection, identity: Mapping[str, Any]) -> Self:
        """Return the teachers of the run whose identity was ``identity`` when it began."""
        begun = identity["store"]["ranges"]
        allowed = [name for name in store.teachers if selection == "all" or name in selection]
        return cls(selection=selection, names=tuple(name for name in allowed if begun.get(name)))

    def among(self, names: Collection[str]) -> Self:
        """Return the teachers whose names are also in ``names``."""
        return replace(self, names=tuple(name for name in self.names if name in names))

    def available(self, store: FeatureStore) -> npt.NDArray[np.bool_]:
        """Return which teacher may teach which row of a store, (N, T)."""
        # The selection may name teachers outside this run, so it is applied to all of the store's.
        available_NT = store.available(self.selection)
        found: npt.NDArray[np.bool_] = available_NT[:, [store.teachers.index(name) for name in self.names]]
        return found


def open_store(
    pipeline: TrainPipeline,
    *,
    corpus_root: Path | None = None,
    ranks: Ranks = ALONE,
    begun: Mapping[str, Any] | None = None,
) -> FeatureStore:
    """Open a pipeline's store and check that it holds features.

    Rank 0 reads the receipts, and all processes see the store as it does: another one, a moment later, might see more.

    Args:
        begun: the identity of an interrupted run that is to go on.

    Raises:
        IncompleteStoreError: no range of any teacher is committed.
    """
    store = FeatureStore(
        pipeline.store.path, corpus_root=corpus_root, allow=pipeline.readable(), verify=pipeline.store.verify
    )
    if ranks.world_size > 1:
        store.adopt(ranks.from_first(store.known))
    store = as_begun(store, begun)
    incomplete = [teacher for teacher in store.teachers if not store.is_complete(teacher)]
    if not any(store.units(teacher).all() for teacher in store.teachers):
        raise IncompleteStoreError(
            f"{store.location}: holds no features yet", hint="python -m extract run --pipeline NAME makes them"
        )
    if incomplete:
        log.warning("%s is not complete: %s; only committed ranges are used", store.location, ", ".join(incomplete))
    return store


def as_begun(store: FeatureStore, begun: Mapping[str, Any] | None) -> FeatureStore:
    """Return a store with the rows that an interrupted run began with, if rows were appended behind them since.

    A run that resumes has the captions, the batches and the vocabulary of its beginning.

    Args:
        begun: the identity of the run; None if there is none.
    """
    was, info = (begun or {}).get("store", {}), store.info
    rows, files = was.get("rows", info.rows), was.get("corpus", {}).get("files", {})
    ends = [*itertools.accumulate(info.parts or ())]
    if rows >= info.rows or rows not in ends:
        return store
    # Of the files it had: one that changed since is found when the identities are compared.
    kept = {name: stamp for name, stamp in info.corpus.get("files", {}).items() if name in files}
    corpus = {**info.corpus, "files": kept}
    parts = (info.parts or [])[: ends.index(rows) + 1]
    info = info.model_copy(update={"rows": rows, "parts": parts, "corpus": corpus})
    known, earlier = store.known(), store.reopen()
    units = {name: {one: unit for one, unit in of.items() if one < info.ranges} for name, of in known.units.items()}
    earlier.adopt(Known(info=info, specs=known.specs, units=units))
    log.info("%s: the run goes on with the %d rows it began with, of %d", store.location, rows, store.info.rows)
    return earlier


def store_identity(store: FeatureStore) -> dict[str, Any]:
    """Return everything that determines the features of a store, as JSON values."""
    return {
        "corpus": store.info.corpus,
        "rows": store.info.rows,
        "specs": {teacher: store.spec(teacher).hash for teacher in store.teachers},
        "ranges": {teacher: len(store.units(teacher).all()) for teacher in store.teachers},
    }


def committed_ranges(store: FeatureStore) -> dict[str, list[int]]:
    """Return the committed ranges of each teacher as they are on disk now, of the rows that the store was opened with.

    Raises:
        SpecMismatchError: a teacher was replaced since then.
    """
    now = store.reopen()
    for teacher in store.teachers:
        if now.spec(teacher).hash != store.spec(teacher).hash:
            raise SpecMismatchError(
                f"{store.location}: {teacher} was replaced since the store was opened",
                hint="--resume never begins a run anew with the new features",
            )
    ranges = range(store.info.ranges)
    return {teacher: [number for number in now.units(teacher).all() if number in ranges] for teacher in store.teachers}


def is_growing(store: FeatureStore) -> bool:
    """Return whether some teacher's rows are not committed yet."""
    return not all(store.is_complete(teacher) for teacher in store.teachers)


def usable(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which pairs have an image and a caption, (N,)."""
    has_caption = pc.fill_null(pc.greater(pc.binary_length(table["caption"]), 0), fill_value=False)
    found: npt.NDArray[np.bool_] = pc.and_(table["uri"].is_valid(), has_caption).to_numpy(zero_copy_only=False)
    return found


def to_train_on(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which pairs have an image and a caption and belong to the training split, or state none, (N,)."""
    return usable(table) & in_split(table, None, TRAINING_SPLIT)


def in_split(table: pa.Table, *names: str | None) -> npt.NDArray[np.bool_]:
    """Return which pairs belong to one of the splits, (N,); None stands for pairs without a split."""
    split = table["split"]
    found = pc.is_in(split, pa.array([name for name in names if name is not None], pa.string()))
    if None in names:
        found = pc.or_(found, pc.is_null(split))
    among: npt.NDArray[np.bool_] = pc.fill_null(found, fill_value=False).to_numpy(zero_copy_only=False)
    return among
