"""Appends the pairs of new corpus files as rows behind the old ones, which never change."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.corpus.corpus_files import corpus_files, relative_uri
from store.corpus.section import Corpus
from store.errors import StoreError
from store.faults import reached
from store.format.key_index import KeyIndex, KeyIndexWriter, hash_texts
from store.format.pair_writer import PART_ROWS, PairWriter
from store.format.pairs import PairTable
from store.format.records import REPORT_KEY, STORE_KEY, StoreInfo, read_store_info, require_present_format, write_record
from store.io.location import Location, locate
from store.io.lock import exclusive
from store.io.scratch import scratch_database

from .create import plan_for, signature_of
from .curation_report import CurationReport, read_report, report_of
from .indexing import INDEX_FOLDER, Plan, index_files
from .merge import CANDIDATES, create_candidates, merge, write_rows

if TYPE_CHECKING:
    import duckdb


def append_corpus(
    store: str | os.PathLike[str] | Location,
    corpus: Corpus,
    *,
    workers: int | None = None,
    part_rows: int = PART_ROWS,
    on_file: Callable[[int], object] = lambda _: None,
) -> tuple[StoreInfo, CurationReport | None]:
    """Add the pairs of corpus files that were not there when a store was made, as rows behind its last one.

    Old rows never change. store.json is rewritten last; until then the store reads as before. Extraction has to repeat
    only the range that was partial.

    Args:
        corpus: as it was indexed, with more files.
        workers: processes that read corpus files; one per core if left out.

    Returns:
        The store's new shape, and the report of the new files; None where there are none.

    Raises:
        StoreError: settings or rules changed, or an indexed file changed or is gone.
        CorpusError: a new file cannot be read, or a key of it is there already.
    """
    location = locate(store)
    info, plan = new_files(location, corpus)
    if not plan.files and not location.list(INDEX_FOLDER):
        return info, None
    reached("index.planned")
    with exclusive(location) as held:
        # Planned again: another may have appended before the lock was taken.
        info, plan = new_files(location, corpus)
        if not plan.files:
            location.delete_below(INDEX_FOLDER)  # of one that was killed at its end
            return info, None
        parts = index_files(location, plan, workers=workers, on_file=on_file)
        with scratch_database() as database:
            pairs, index = PairTable(location, info), KeyIndexWriter(database)
            add_keys(index, location, info, pairs)
            _add_older(database, pairs, info.rows)
            merged = merge(database, parts, corpus.keep, has_key=functools.partial(_has, pairs))
            shape = {"range_rows": info.range_rows, "part_rows": part_rows}
            writer = PairWriter(location, **shape, after=pairs, guard=held.check)
            modalities = write_rows(parts, merged, writer, index)
            writer.close()
            held.check()
            index.write(location)
        added = report_of(merged, corpus, modalities=dict(modalities))
        before = read_report(location, info)
        write_record(location, REPORT_KEY, before.plus(added) if before else added)
        files = {**info.corpus["files"], **signature_of(plan)["files"]}
        info = info.model_copy(
            update={
                "rows": writer.rows,
                "parts": writer.parts,
                "corpus": {**info.corpus, "files": files},
                "corpus_root": plan.root,
            }
        )
        held.check()
        write_record(location, STORE_KEY, info)
        location.delete_below(INDEX_FOLDER)
    return info, added


def new_files(location: Location, corpus: Corpus) -> tuple[StoreInfo, Plan]:
    """Return a store's shape, and a plan of the files of a corpus that it does not have yet.

    Raises:
        StoreError: settings or rules changed, an indexed file changed or is gone, or the store is of an older format.
    """
    info = read_store_info(location)
    require_present_format(location, info)
    indexed: Mapping[str, Any] | None = info.corpus.get("files")
    if indexed is None:
        raise StoreError(f"{location}: this store was imported, not indexed from corpus files; nothing can be appended")
    files = corpus_files(corpus.files)
    plan = plan_for(info, files, corpus)
    found = signature_of(plan)
    changed = [uri for uri, stamp in indexed.items() if found["files"].get(uri) != stamp]
    if changed:
        state = "changed" if changed[0] in found["files"] else "is gone"
        raise StoreError(
            f"{location}: {changed[0]} {state} since it was indexed ({len(changed)} of {len(indexed)} corpus files "
            "differ); rows never change",
            hint="put the indexed files back as they were, or index into a new store (--set store.path=...)",
        )
    if {**found, "files": None} != {**info.corpus, "files": None}:
        raise StoreError(
            f"{location}: the corpus's settings changed since this store was made; new rows would follow other rules "
            "than the old ones",
            hint="python -m extract index --report says what the present settings would change; or take them back",
        )
    fresh = [file for file in files if relative_uri(file.uri, plan.root) not in indexed]
    return info, dataclasses.replace(plan, files=fresh)


def add_keys(index: KeyIndexWriter, location: Location, info: StoreInfo, pairs: PairTable) -> None:
    """Give a new key index the keys of the rows that are there, from the old index if there is one."""
    tables = KeyIndex(location, info).tables()
    if tables is not None:
        for table in tables:
            index.add_entries(table)
        return
    for block in pairs.blocks(["row", "key"]):
        index.add(hash_texts(block["key"].to_pylist()), block["row"][0].as_py())


def _add_older(database: duckdb.DuckDBPyConnection, pairs: PairTable, rows: int) -> None:
    """Make the rows that are there candidates before all others: first their keys, then their images."""
    create_candidates(database)
    query = "INSERT INTO candidates SELECT row - ?, NULL, key_hash, NULL, NULL, difference_hash FROM keys"
    database.execute(query, [rows])
    for block in pairs.blocks(["row", "image_sha256", "caption"]):
        table = block.filter(block["image_sha256"].is_valid())
        digests, captions = table["image_sha256"].to_pylist(), table["caption"].to_pylist()
        positions = pc.subtract(table["row"], rows)
        nulls = pa.nulls(len(table), pa.uint64())
        image = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
        pair = hash_texts(f"{digest} {text or ''}" for digest, text in zip(digests, captions, strict=True))
        table = pa.table([positions, positions, nulls, image, pair, nulls], schema=CANDIDATES)
        database.from_arrow(table).insert_into("candidates")


def _has(pairs: PairTable, key: str) -> bool:
    try:
        pairs.row_of(key)
    except StoreError:
        return False
    return True
