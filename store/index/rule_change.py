"""Finds the rows that other rules would add to a store or drop from it; the store is not changed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.corpus.corpus_files import corpus_files, relative_uri
from store.corpus.section import Corpus
from store.errors import StoreError
from store.format.key_index import KeyIndexWriter
from store.format.pairs import PairTable
from store.format.records import StoreInfo, read_store_info
from store.io.location import Location, locate
from store.io.lock import exclusive
from store.io.scratch import scratch_database

from .append import add_keys
from .create import plan_for
from .curation_report import CurationReport, report_of
from .indexing import INDEX_FOLDER, Plan, index_files
from .merge import keys_at, merge

KEYS_SHOWN = 10


@dataclass(kw_only=True, frozen=True, slots=True)
class RuleChange:
    """Differences between the rows of a store and those of other rules.

    Attributes:
        added, dropped: how many rows the other rules would add and drop.
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
    on_file: Callable[[int], object] = lambda _: None,
) -> RuleChange:
    """Index the files of a store under other settings and compare keys; nothing of the store is changed.

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
    with exclusive(location):
        return _compare(location, info, plan, workers=workers, on_file=on_file)


def _compare(
    location: Location, info: StoreInfo, plan: Plan, *, workers: int | None, on_file: Callable[[int], object]
) -> RuleChange:
    corpus = plan.corpus
    parts = index_files(location, plan, workers=workers, on_file=on_file)
    pairs = PairTable(location, info)
    with scratch_database() as database:
        add_keys(KeyIndexWriter(database), location, info, pairs)
        merged = merge(database, parts, corpus.keep)

        def find(query: str) -> tuple[int, npt.NDArray[np.int64]]:
            """Return the number of rows of a query, and the first of them."""
            found = database.sql(query)
            return len(found), found.order("1").limit(KEYS_SHOWN).to_arrow_table().column(0).to_numpy()

        added, first_added = find("SELECT position FROM kept WHERE key NOT IN (SELECT key_hash FROM keys)")
        dropped, first_dropped = find("SELECT row FROM keys WHERE key_hash NOT IN (SELECT key FROM kept)")
    change = RuleChange(
        report=report_of(merged, corpus, modalities={}),
        added=added,
        dropped=dropped,
        first_added=keys_at(parts, merged, first_added),
        first_dropped=[pairs.read(row, row + 1, ["key"])["key"][0].as_py() for row in first_dropped.tolist()],
    )
    location.delete_below(INDEX_FOLDER)
    return change
