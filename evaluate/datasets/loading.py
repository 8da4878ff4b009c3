"""Reads a dataset: labels and texts into memory, images and bags only for their digests."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from evaluate.datasets.formats.reading import read_all
from evaluate.datasets.formats.record import BagFile, Image, Record
from store.errors import EvaluationError

from .checks import check_splits
from .entry import DatasetEntry
from .loaded import LoadedDataset
from .registry import missing_files
from .rows import Row, RowReader, as_splits, in_bags
from .split_rules import Folds

log = logging.getLogger(__name__)

DIGEST_THREADS = 8
"""Images read at a time: a disk or a network file system answers several as fast as one."""

DIGEST_AHEAD = 256
"""Records whose images are read together; bounds memory."""


def load_dataset(entry: DatasetEntry, root: Path, *, allow: Collection[str] = ()) -> LoadedDataset:
    """Read a dataset's labels and texts, digest its images, split it, and check that it can be evaluated.

    Args:
        allow: ``shared_patients``, ``empty_classes``: not refused, in addition to what the entry allows.

    Raises:
        EvaluationError, CorpusError: files are missing or damaged, or the dataset is not what its entry says.
    """
    # What the caller allows is not refused by the tasks either.
    entry = entry.model_copy(update={"allow": sorted({*entry.allow, *allow})})
    missing = missing_files(entry, root)
    if missing:
        raise EvaluationError(
            f"{entry.name}: not found below {root}: {', '.join(missing)}", hint=f"{entry.get} ({entry.source})"
        )
    excluded: Counter[str] = Counter()
    rows = list(in_bags(_rows(entry, root, excluded)))
    _require_distinct(entry, rows)
    # The same items in another order of files are the same dataset.
    rows.sort(key=lambda row: (row.split, row.id))
    splits = as_splits(entry, rows)
    duplicates, caveats = check_splits(entry, splits, excluded, allow=entry.allow)
    for caveat in caveats:
        log.warning("%s: %s", entry.name, caveat)
    return LoadedDataset(
        entry=entry,
        splits=splits,
        digest=_digest([list(entry.classes), *(row.content() for row in rows)]),
        split_digest=_digest([*([row.split, row.id, *row.digests] for row in rows), *_folds(entry)]),
        excluded=dict(excluded),
        duplicates=duplicates,
        caveats=caveats,
    )


def _folds(entry: DatasetEntry) -> list[list[Any]]:
    """Return what decides the folds beside the items: nothing where the split is given."""
    return [["folds", entry.split.count, entry.split.seed]] if isinstance(entry.split, Folds) else []


def _rows(entry: DatasetEntry, root: Path, excluded: Counter[str]) -> Iterator[Row]:
    reader = RowReader(entry)
    for record, digest in _digested(read_all(entry.read, root)):
        found = reader.row(record, digest)
        if isinstance(found, str):
            excluded[found] += 1
        else:
            yield found
    reader.finish()


def _digested(records: Iterator[Record]) -> Iterator[tuple[Record, str | None]]:
    """Yield records with the digest of their image or features; what several records share is read once."""
    known: dict[str, str] = {}
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:
        while window := list(islice(records, DIGEST_AHEAD)):
            sources = [record.bag or record.image for record in window]
            pairs = zip(window, sources, strict=True)
            unread = {source.place: source for record, source in pairs if source and not record.sha256}
            new = [place for place in unread if place not in known]
            known |= dict(zip(new, pool.map(_sha256, [unread[place] for place in new]), strict=True))
            for record, source in zip(window, sources, strict=True):
                yield record, record.sha256 or (known[source.place] if source else None)


def _sha256(source: Image | BagFile) -> str:
    return source.sha256() if isinstance(source, BagFile) else hashlib.sha256(source.read()).hexdigest()


def _require_distinct(entry: DatasetEntry, rows: Iterable[Row]) -> None:
    counts = Counter(row.id for row in rows)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise EvaluationError(
            f"{entry.name}: {len(twice)} ids occur more than once: {', '.join(twice[:5])}",
            hint="name the items by another column with fields.id, or leave it out to number them",
        )


def _digest(values: Iterable[list[Any]]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
