"""The pairs of a run: of a corpus, of a store, or of a store with the features of teachers.

Axes: N rows of the pair table, T teachers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.index.merge import read_corpus
from store.read.pixel_cache import PixelCache
from store.read.reader import FeatureStore

from .image_loader import CorpusImages, RowImages
from .store_rows import RunTeachers, committed_ranges, is_growing, to_train_on
from .target_reader import Sampling, TargetReader

Rows = npt.NDArray[np.int64]

Ranges = dict[str, list[int]]
"""Committed ranges by teacher."""

COLUMNS = ["uri", "member", "caption", "split", "image_sha256"]
"""Columns of the pair table that training reads."""


@dataclass(kw_only=True, frozen=True, eq=False)
class PairSource:
    """Pairs without teachers; they stay the same during a run.

    Attributes:
        table: the pair table with COLUMNS.
        images: by row of the table.
        has_image_N: which rows have an image; None where only reading it tells.
        block_rows: rows that are read together, those of a store's chunk.
        window_blocks: number of blocks whose rows are mixed.
        shuffle: give each epoch another order.
        grows: rows may join while the run goes on.
    """

    table: pa.Table
    images: RowImages
    has_image_N: npt.NDArray[np.bool_] | None = None
    block_rows: int
    window_blocks: int
    shuffle: bool = True
    grows: bool = False

    def committed(self) -> Ranges:
        """Return what is committed at this moment."""
        return {}

    def as_of(self, ranges: Ranges) -> Self:
        """Return the pairs as if only some ranges were committed."""
        del ranges
        return self

    def rows(self) -> Rows:
        """Return the rows of the training split, held-out images among them, ascending."""
        return np.flatnonzero(to_train_on(self.table))

    def targets(self) -> TargetReader | None:
        """Return the reader of the teachers' features of `rows`; None without teachers."""
        return None


def corpus_pairs(corpus: Corpus) -> PairSource:
    """Return the pairs of a corpus; an epoch mixes all of them."""
    index = read_corpus(corpus)
    return PairSource(
        table=index.table,
        images=CorpusImages(ImageSource(index.root, allow=corpus.readable()), index.table),
        block_rows=1,
        window_blocks=max(1, index.table.num_rows),
    )


def store_pairs(store: FeatureStore, pixels: PixelCache | None, *, window_blocks: int) -> PairSource:
    """Return the pairs of a store, which need not hold any feature; with ``pixels`` the images are the store's own."""
    table = store.pairs.read(0, store.info.rows, COLUMNS)
    return PairSource(
        table=table,
        images=pixels or CorpusImages(store.images, table),
        has_image_N=pixels.committed_rows() if pixels else None,
        block_rows=store.info.chunk_rows,
        window_blocks=window_blocks,
    )


@dataclass(kw_only=True, frozen=True, eq=False)
class TaughtPairs(PairSource):
    """Pairs of a store that at least one teacher of the run may teach.

    Attributes:
        sampling: how many teachers teach a row; None for a student without teachers, which sees the same rows.
        seed: decides the draw of teachers.
    """

    store: FeatureStore
    teachers: RunTeachers
    sampling: Sampling | None
    seed: int

    def committed(self) -> Ranges:
        """Return the committed ranges of the store as it is on disk now."""
        return committed_ranges(self.store)

    def as_of(self, ranges: Ranges) -> Self:
        """Return the pairs of the store as if only some ranges were committed."""
        return replace(self, store=self.store.as_of(ranges))

    def available(self) -> npt.NDArray[np.bool_]:
        """Return which teacher may teach which row of the training split, (N, T)."""
        return self.teachers.available(self.store) & to_train_on(self.table)[:, None]

    def rows(self) -> Rows:
        """Return the rows of the training split that have an available teacher, ascending."""
        return np.flatnonzero(self.available().any(axis=1))

    def targets(self) -> TargetReader | None:
        """Return the reader of the teachers' features; None for a student without teachers."""
        if self.sampling is None:
            return None
        return TargetReader(
            self.store,
            teachers=self.teachers.names,
            available_NT=self.teachers.available(self.store),
            seed=self.seed,
            sampling=self.sampling,
        )


def taught_pairs(
    store: FeatureStore,
    pixels: PixelCache | None,
    *,
    window_blocks: int,
    teachers: RunTeachers,
    sampling: Sampling | None,
    seed: int,
    shuffle: bool,
) -> TaughtPairs:
    """Return the pairs of a store with its teachers; with ``pixels`` the images are the store's own."""
    pairs = store_pairs(store, pixels, window_blocks=window_blocks)
    return TaughtPairs(
        table=pairs.table,
        images=pairs.images,
        has_image_N=pairs.has_image_N,
        block_rows=pairs.block_rows,
        window_blocks=window_blocks,
        shuffle=shuffle,
        grows=is_growing(store),
        store=store,
        teachers=teachers,
        sampling=sampling,
        seed=seed,
    )
