"""What other rules would make of a store that is there: rows they would add or drop; the store is left alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.corpus.corpus_files import corpus_files, relative_uri
from store.corpus.section import Corpus
from store.errors import StoreError
from store.format.key_index import hash_texts
from store.format.pairs import PairTable
from store.format.records import StoreInfo, read_store_info
from store.io.location import Location, locate

from .create import plan_for
from .curation_report import CurationReport, report_of
from .indexing import INDEX_FOLDER, index_files
from .merge import Merged, ReadPart, merge

KEYS_SHOWN = 10

ROWS_AT_A_TIME = 131_072


@dataclass(kw_only=True, frozen=True, slots=True)
class RuleChange:
    """How the rows of a store and those of other rules differ.

    Attributes:
        added, dropped: how many rows they would have more, and no longer.
        first_added, first_dropped: the first keys of each.
    """

    report: CurationReport
    added: int
    dropped: int
    first_added: list[str]
    first_dropped: list[str]


def rule_change(
    store: str | os.PathLike[str] | Location,
    corpus: Corpus,
    *,
    workers: int | None = None,
    on_file: Callable[[int], object] | None = None,
) -> RuleChange:
    """Index the files of a store under other settings and compare keys; nothing of the store is changed.

    Args:
        corpus: the same files, with the settings to try.

    Raises:
        StoreError: the store was made from other files.
        CorpusError: a file cannot be read.
    """
    location = locate(store)
    info = read_store_info(location)
    found = plan_for(info, corpus_files(corpus.files), corpus)
    by_uri = {relative_uri(file.uri, found.root): file for file in found.files}
    indexed = list(info.corpus.get("files", {}))
    if not set(indexed) <= set(by_uri):
        raise StoreError(
            f"{location}: this store was made from other corpus files, so its rules cannot be compared with these",
            hint="give the store's own corpus, with other rules",
        )
    # In the order of the store's rows, which differs from that of the names once files were appended.
    plan = dataclasses.replace(found, files=[by_uri[uri] for uri in indexed])
    parts = index_files(location, plan, workers=workers, on_file=on_file)
    merged = merge(parts, corpus.keep)
    change = _compare(location, info, parts, merged, corpus)
    location.delete_below(INDEX_FOLDER)
    return change


def _compare(
    location: Location, info: StoreInfo, parts: Sequence[ReadPart], merged: Merged, corpus: Corpus
) -> RuleChange:
    pairs = PairTable(location, rows=info.rows)
    old_N = np.concatenate(
        [
            hash_texts(pairs.read(start, min(start + ROWS_AT_A_TIME, info.rows), ["key"])["key"].to_pylist())
            for start in range(0, info.rows, ROWS_AT_A_TIME)
        ]
    )
    new_N = merged.hashes.key
    added_N = merged.keep_N & ~np.isin(new_N, old_N)
    dropped_N = ~np.isin(old_N, new_N[merged.keep_N])
    first = np.flatnonzero(dropped_N)[:KEYS_SHOWN]
    return RuleChange(
        report=report_of(merged, corpus, files=len(parts), modalities={}),
        added=int(added_N.sum()),
        dropped=int(dropped_N.sum()),
        first_added=_keys_at(parts, merged, np.flatnonzero(added_N)[:KEYS_SHOWN]),
        first_dropped=[pairs.read(int(row), int(row) + 1, ["key"])["key"][0].as_py() for row in first],
    )


def _keys_at(parts: Sequence[ReadPart], merged: Merged, positions: npt.NDArray[np.int64]) -> list[str]:
    keys: list[str] = []
    start = 0
    for read, rows in zip(parts, merged.part_rows, strict=True):
        here = positions[(positions >= start) & (positions < start + rows)] - start
        if len(here):
            column = pq.ParquetFile(pa.BufferReader(read())).read(columns=["key"])["key"]
            keys += column.take(pa.array(here)).to_pylist()
        start += rows
    return keys
