"""Making a new store: its pair table and store.json, or seeing that it is already there."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

from .corpus import CorpusIndex, corpus_files, index_tars
from .errors import ConfigError, StoreError, StoreNotFoundError
from .location import Location, locate
from .pairs import write_pairs
from .pipeline import Corpus
from .records import STORE_KEY, StoreInfo, read_store_info, write_record


def check_shape(*, range_rows: int, chunk_rows: int) -> None:
    """Refuse a chunk size that does not divide the shard.

    Raises:
        ConfigError: Zarr shards hold whole chunks.
    """
    if range_rows % chunk_rows:
        raise ConfigError(f"store.chunk_rows: {chunk_rows} does not divide range_rows, {range_rows}")


def index_corpus(
    store: str | os.PathLike[str] | Location,
    corpus: Corpus,
    *,
    range_rows: int,
    chunk_rows: int,
    on_shard: Callable[[int], object] | None = None,
) -> tuple[StoreInfo, list[str] | None]:
    """Make a store of a corpus's pairs, unless the store already holds exactly them.

    Args:
        store: the folder or URL to make it in.
        corpus: which files.
        range_rows: R.
        chunk_rows: C.
        on_shard: called with 1 after each corpus shard.

    Returns:
        The store's shape, and the corpus's problems; None in their place if the store was there already.

    Raises:
        StoreError: the store holds other pairs.
        CorpusError: the corpus cannot be read.
    """
    check_shape(range_rows=range_rows, chunk_rows=chunk_rows)
    location = locate(store)
    files = corpus_files(corpus.files)
    # Relative to their common folder: a moved corpus is the same one, and shards of several folders may share a name.
    root = os.path.commonpath([file.parent for file in files])
    signature = {
        "files": {file.relative_to(root).as_posix(): [file.stat().st_size, file.stat().st_mtime_ns] for file in files},
        "qualify_keys": corpus.qualify_keys,
    }
    existing = _existing(location)
    if existing:
        if (existing.corpus, existing.range_rows, existing.chunk_rows) != (signature, range_rows, chunk_rows):
            raise StoreError(
                f"{location}: this store was made from other corpus files or with another shape; its rows never change",
                hint="index into a new store (--set store.path=...), or delete this one if it is not needed",
            )
        return existing, None
    index = index_tars(files, qualify_keys=corpus.qualify_keys, on_shard=on_shard)
    info = create_store(location, index, signature=signature, range_rows=range_rows, chunk_rows=chunk_rows)
    return info, index.problems


def create_store(
    location: Location, index: CorpusIndex, *, signature: dict[str, Any], range_rows: int, chunk_rows: int
) -> StoreInfo:
    """Write the pair table and, last, store.json, with which the store begins to exist.

    Args:
        location: where to make it.
        index: the pairs.
        signature: what was indexed, kept in store.json.
        range_rows: R.
        chunk_rows: C.
    """
    check_shape(range_rows=range_rows, chunk_rows=chunk_rows)
    info = StoreInfo(
        rows=index.table.num_rows,
        range_rows=range_rows,
        chunk_rows=chunk_rows,
        created_by=f"MMKD, zarr {importlib.metadata.version('zarr')}",
        corpus_root=str(index.root),
        corpus=signature,
    )
    write_pairs(location, index.table, range_rows=range_rows)
    write_record(location, STORE_KEY, info)
    return info


def _existing(location: Location) -> StoreInfo | None:
    try:
        return read_store_info(location)
    except StoreNotFoundError:
        return None
