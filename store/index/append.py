"""Appends the pairs of new corpus files as rows behind the old ones, which never change."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.corpus.corpus_files import corpus_files, relative_uri
from store.corpus.section import Corpus
from store.errors import StoreError
from store.faults import reached
from store.format.key_index import KeyIndex, hash_texts, write_key_index
from store.format.pair_writer import PART_ROWS, PairWriter
from store.format.pairs import PairTable
from store.format.records import REPORT_KEY, STORE_KEY, StoreInfo, read_store_info, require_present_format, write_record
from store.io.location import Location, locate
from store.io.lock import exclusive

from .create import differences_of, plan_for, signature_of
from .curation_report import read_report, report_of
from .indexing import INDEX_FOLDER, Plan, index_files
from .merge import Known, Merged, merge, write_rows

_NONE = np.empty(0, np.uint64)


def append_corpus(
    store: str | os.PathLike[str] | Location,
    corpus: Corpus,
    *,
    workers: int | None = None,
    part_rows: int = PART_ROWS,
    on_file: Callable[[int], object] = lambda _: None,
) -> tuple[StoreInfo, list[str]]:
    """Add the pairs of corpus files that were not there when a store was made, as rows behind its last one.

    Old rows never change. store.json is rewritten last; until then the store reads as before. Extraction has to repeat
    only the range that was partial.

    Args:
        corpus: as it was indexed, with more files.
        workers: processes that read corpus files; one per core if left out.

    Returns:
        The store's new shape, and the problems of the new files.

    Raises:
        StoreError: settings or rules changed, or an indexed file changed or is gone.
        CorpusError: a new file cannot be read, or a key of it is there already.
    """
    location = locate(store)
    info, plan = new_files(location, corpus)
    if not plan.files and not location.list(INDEX_FOLDER):
        return info, []
    reached("index.planned")
    with exclusive(location):
        # Planned again: another may have appended before the lock was taken.
        info, plan = new_files(location, corpus)
        if not plan.files:
            location.delete_below(INDEX_FOLDER)  # of one that was killed at its end
            return info, []
        pairs, index = PairTable(location, info), KeyIndex(location, info)
        parts = index_files(location, plan, workers=workers, on_file=on_file)
        old_keys, old_differences = _old_hashes(pairs, index)
        merged = merge(parts, corpus.keep, known=_known(pairs, old_keys, old_differences))
        writer = PairWriter(location, range_rows=info.range_rows, part_rows=part_rows, after=pairs)
        modalities = write_rows(parts, merged, writer)
        writer.close()
        write_key_index(
            location,
            np.concatenate([old_keys, merged.hashes.key[merged.keep_N]]),
            difference_hashes=_joined(old_differences, merged, old_rows=info.rows),
        )
        added = report_of(merged, corpus, files=len(plan.files), modalities=dict(modalities))
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
        write_record(location, STORE_KEY, info)
        location.delete_below(INDEX_FOLDER)
    return info, added.problems


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
    return info, Plan(files=fresh, stamps=plan.stamps, root=plan.root, corpus=corpus)


def _old_hashes(pairs: PairTable, index: KeyIndex) -> tuple[npt.NDArray[np.uint64], pa.Array | None]:
    """Return the key hashes of the old rows and the difference hashes of their images, if they were kept."""
    table = index.read()
    if table is not None:
        differences = table["difference_hash"].combine_chunks()
        return table["key_hash"].to_numpy(), None if differences.null_count == len(differences) else differences
    return pairs.key_hashes(), None


def _known(pairs: PairTable, keys: npt.NDArray[np.uint64], differences: pa.Array | None) -> Known:
    images, both = [_NONE], [_NONE]
    for block in pairs.blocks(["image_sha256", "caption"]):
        table = block.filter(block["image_sha256"].is_valid())
        digests, captions = table["image_sha256"].to_pylist(), table["caption"].to_pylist()
        images.append(np.array([int(digest[:16], 16) for digest in digests], np.uint64))
        both.append(hash_texts(f"{digest} {text or ''}" for digest, text in zip(digests, captions, strict=True)))
    return Known(
        key=keys,
        image=np.concatenate(images),
        pair=np.concatenate(both),
        difference=np.unique(differences.drop_null().to_numpy()) if differences is not None else _NONE,
        has_key=lambda key: _has(pairs, key),
    )


def _has(pairs: PairTable, key: str) -> bool:
    try:
        pairs.row_of(key)
    except StoreError:
        return False
    return True


def _joined(old: pa.Array | None, merged: Merged, *, old_rows: int) -> pa.Array | None:
    """Return the difference hashes of old and new rows, None where neither have any."""
    parts = [(old, old_rows), (differences_of(merged), int(merged.keep_N.sum()))]
    if all(hashes is None for hashes, _ in parts):
        return None
    return pa.concat_arrays([pa.nulls(rows, pa.uint64()) if hashes is None else hashes for hashes, rows in parts])
