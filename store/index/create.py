"""Makes a new store, the pair table first and store.json last; an equal store that exists is left alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from store.corpus.corpus_files import CorpusFile, common_root, corpus_files, qualifiers, relative_uri
from store.corpus.section import Corpus
from store.errors import ConfigError, StoreError, StoreNotFoundError
from store.faults import reached
from store.format.key_index import KeyIndexWriter, hash_texts, write_key_index
from store.format.pair_writer import PairWriter
from store.format.pairs import part_key
from store.format.promote import Guard, unguarded
from store.format.records import (
    KNOWN_UNITS_KEY,
    REPORT_KEY,
    STORE_KEY,
    StoreInfo,
    read_store_info,
    record_bytes,
    write_record,
)
from store.io.lease import Held
from store.io.location import Location, locate
from store.io.lock import exclusive
from store.io.scratch import scratch_database

from .curation_report import CurationReport, report_of
from .indexing import INDEX_FOLDER, Plan, index_files, settings_of
from .merge import CorpusIndex, merge, require_pairs, write_rows

log = logging.getLogger(__name__)

_PLACE = f"{INDEX_FOLDER}/begun"


def check_shape(*, range_rows: int, chunk_rows: int) -> None:
    """Refuse, with a ConfigError, a chunk size that does not divide the shard: Zarr shards hold whole chunks."""
    if range_rows % chunk_rows:
        raise ConfigError(f"store.chunk_rows: {chunk_rows} does not divide range_rows, {range_rows}")


def plan_of(files: Sequence[CorpusFile], corpus: Corpus, *, root: str | None = None) -> Plan:
    """Return a plan: the files, and the folder that their uris become relative to."""
    # Relative to the common folder: a corpus that moved stays the same, and files of several folders may share a name.
    root = root if root is not None else common_root(files)
    prefixes = qualifiers(files, root) if corpus.qualify_keys else {}
    stamps = {file.uri: file.stamp() for file in files}
    return Plan(files=files, stamps=stamps, root=root, corpus=corpus, prefixes=prefixes)


def plan_for(info: StoreInfo, files: Sequence[CorpusFile], corpus: Corpus) -> Plan:
    """Return the plan for the corpus of a store that exists.

    Its root is the store's own, which new files may lie beside; or, if the corpus moved, the folder where it is now.
    """
    plans = (plan_of(files, corpus, root=root) for root in (info.corpus_root, common_root(files)))
    indexed = info.corpus.get("files", {})
    first = next(plans)
    return first if indexed.keys() <= signature_of(first)["files"].keys() else next(plans)


def signature_of(plan: Plan) -> dict[str, Any]:
    """Return the identity of a corpus in store.json: its files and the settings that decide its rows."""
    files = {relative_uri(file.uri, plan.root): list(plan.stamps[file.uri]) for file in plan.files}
    return _signature(files, plan.corpus)


def _signature(files: dict[str, Any], corpus: Corpus) -> dict[str, Any]:
    settings = settings_of(corpus)
    signature = {"files": files, "qualify_keys": settings.pop("qualify_keys")}
    return signature | ({"settings": settings} if settings else {})


def index_corpus(
    store: str | os.PathLike[str] | Location,
    corpus: Corpus,
    *,
    range_rows: int,
    chunk_rows: int,
    workers: int | None = None,
    on_shard: Callable[[int], object] = lambda _: None,
) -> tuple[StoreInfo, CurationReport | None]:
    """Make a store of a corpus's pairs, unless the store already holds exactly them.

    Kill it at any moment and run it again: corpus files that were read before are not read again.

    Args:
        workers: processes that read corpus files; one per core if left out.

    Returns:
        The store's shape, and the report of what was found; None in its place if the store was there already.

    Raises:
        StoreError: the store holds other pairs.
        CorpusError: the corpus cannot be read.
    """
    check_shape(range_rows=range_rows, chunk_rows=chunk_rows)
    location, shape = locate(store), {"range_rows": range_rows, "chunk_rows": chunk_rows}
    files = corpus_files(corpus.files)
    existing = _same_store(location, files, corpus, shape)
    if existing and not location.list(INDEX_FOLDER):
        return existing, None
    reached("index.planned")
    with new_place(location) as held:
        # Both again: another may have made the store, and files may have come, before the lock was taken.
        files = corpus_files(corpus.files)
        if existing := _same_store(location, files, corpus, shape):
            location.delete_below(INDEX_FOLDER)  # of one that was killed at its end
            return existing, None
        plan = plan_of(files, corpus)
        parts = index_files(location, plan, workers=workers, on_file=on_shard)
        with scratch_database() as database:
            merged = merge(database, parts, corpus.keep)
            require_pairs(merged.account, rows=int(merged.keep_N.sum()))
            writer, index = _new_table(location, range_rows, held.check), KeyIndexWriter(database)
            modalities = write_rows(parts, merged, writer, index)
            writer.close()
            held.check()
            index.write(location)
        report = report_of(merged, corpus, modalities=dict(modalities))
        write_record(location, REPORT_KEY, report)
        info = _info(writer.parts, root=plan.root, signature=signature_of(plan), shape=shape)
        held.check()
        _begin_store(location, info)
        location.delete_below(INDEX_FOLDER)
    return info, report


def _same_store(
    location: Location, files: Sequence[CorpusFile], corpus: Corpus, shape: Mapping[str, int]
) -> StoreInfo | None:
    """Return the store that is there, None where there is none.

    Raises:
        StoreError: it holds other pairs.
    """
    existing = existing_store(location)
    if existing:
        refuse_other(location, existing, signature_of(plan_for(existing, files, corpus)), **shape)
    return existing


@contextlib.contextmanager
def new_place(location: Location) -> Iterator[Held]:
    """Hold a place for writing where there need not be a store yet."""
    # Its folder has to be there for the lock.
    location.write(_PLACE, b"")
    with exclusive(location) as held:
        location.delete([_PLACE])
        yield held


def _new_table(location: Location, range_rows: int, guard: Guard = unguarded) -> PairWriter:
    """Return a writer of the first parts, which are written over those of a store that was here."""
    if location.exists(part_key(0)):
        log.warning("%s: pairs of a store that was here, or of an index that was killed, are replaced", location)
    guard()
    location.delete([KNOWN_UNITS_KEY])  # of a store that was here, whose receipts may be of other pairs
    return PairWriter(location, range_rows=range_rows, guard=guard)


def create_store(
    location: Location,
    index: CorpusIndex,
    *,
    signature: dict[str, Any],
    range_rows: int,
    chunk_rows: int,
    guard: Guard = unguarded,
) -> StoreInfo:
    """Write the pair table and, last, store.json, with which the store begins to exist."""
    shape = {"range_rows": range_rows, "chunk_rows": chunk_rows}
    check_shape(**shape)
    writer = _new_table(location, range_rows, guard)
    writer.add(index.table)
    info = _info(writer.close(), root=str(index.root), signature=signature, shape=shape)
    guard()
    write_key_index(location, hash_texts(index.table["key"].to_pylist()))
    _begin_store(location, info)
    return info


def _begin_store(location: Location, info: StoreInfo) -> None:
    """Create store.json: with it the store is there."""
    try:
        location.create(STORE_KEY, record_bytes(info))
    except FileExistsError as error:
        raise StoreError(
            f"{location}: another program made a store here meanwhile", hint="run the same command again"
        ) from error


def refuse_other(
    location: Location, existing: StoreInfo, signature: Mapping[str, Any], *, range_rows: int, chunk_rows: int
) -> None:
    """Refuse to index something else into a store: the StoreError says what differs, and what to do."""
    if (existing.corpus, existing.range_rows, existing.chunk_rows) == (signature, range_rows, chunk_rows):
        return
    same_shape = (existing.range_rows, existing.chunk_rows) == (range_rows, chunk_rows)
    indexed, found = existing.corpus.get("files"), signature["files"]
    if same_shape and indexed == found:
        raise StoreError(
            f"{location}: the corpus's settings changed since this store was made; its rows never change",
            hint="python -m extract index --report says which rows the present settings would add or drop; to have "
            "them, index into a new store (--set store.path=...)",
        )
    grown = same_shape and isinstance(indexed, dict) and indexed.items() <= found.items()
    raise StoreError(
        f"{location}: this store was made from other corpus files or with another shape; its rows never change",
        hint="python -m extract append adds the new files' pairs as rows"
        if grown
        else "index into a new store (--set store.path=...), or delete this one if it is not needed",
    )


def settings_changed(store: str | os.PathLike[str] | Location, corpus: Corpus) -> bool:
    """Return whether a store is there that was made from a corpus under other settings or rules."""
    existing = existing_store(locate(store))
    if existing is None or "files" not in existing.corpus:
        return False
    return existing.corpus != _signature(existing.corpus["files"], corpus)


def existing_store(location: Location) -> StoreInfo | None:
    """Return the shape of a store, None where there is none."""
    try:
        return read_store_info(location)
    except StoreNotFoundError:
        return None


def _info(parts: list[int], *, root: str, signature: dict[str, Any], shape: Mapping[str, int]) -> StoreInfo:
    return StoreInfo(
        rows=sum(parts),
        **shape,
        created_by=f"MMKD, zarr {importlib.metadata.version('zarr')}",
        corpus_root=root,
        corpus=signature,
        parts=parts,
    )
