"""Images that an evaluation dataset shares with a training corpus: the same bytes, or a similar look.

Axes: N test images, R rows of a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.datasets.formats.record import Image
from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.results.files import read_predictions, read_results, write_result
from evaluate.results.record import Overlap, ResultRecord
from store.console import progress
from store.corpus.near_duplicates import difference_hash
from store.corpus.read_ahead import ReadAhead, Take
from store.errors import EvaluationError, IncompleteStoreError, PairDecodeError
from store.images.decode import decode_image
from store.read.reader import FeatureStore

NEAR_BITS = 4
"""Bits of 64 that hashes of the same picture may differ in; rescaling and recompression change two or three."""

BLOCK_ROWS = 2**13
AHEAD = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The images that a store shares with the test items of a dataset.

    Attributes:
        items: number of test items.
        exact: ids of items whose image has the same bytes as a row's.
        near: ids of further items that look like a row's image; empty if that was not looked for.
        unreadable: number of images of the store that could not be compared.
        pairs: some (id, key) of both kinds, as examples.
    """

    items: int
    exact: list[str]
    near: list[str]
    unreadable: int = 0
    pairs: list[tuple[str, str]] = field(default_factory=list)


def find_overlap(store: FeatureStore, dataset: LoadedDataset, *, near: bool = True, threads: int = 2) -> Found:
    """Compare all test images of a dataset with all images of a store.

    Args:
        store: its corpus is what a student was, or will be, trained on.
        dataset: if its items are slides, their tiles are compared.
        near: also look for images that look alike, which reads every image of the store.

    Raises:
        EvaluationError: the items of the dataset are no images.
    """
    owners, digests, images = _test_images(dataset.test)
    table = store.pairs.read(0, store.info.rows, ["key", "image_sha256"])
    places = pc.index_in(pa.array(digests, pa.string()), value_set=table["image_sha256"].combine_chunks())
    row_N = pc.fill_null(places, -1).to_numpy()
    exact_N = row_N >= 0
    pairs = [(owners[item], table["key"][int(row_N[item])].as_py()) for item in np.flatnonzero(exact_N)[:20].tolist()]
    exact = list(dict.fromkeys(owners[item] for item in np.flatnonzero(exact_N).tolist()))
    if not near:
        return Found(items=len(dataset.test), exact=exact, near=[], pairs=pairs)
    rest = np.flatnonzero(~exact_N)
    hashes, readable = _hashes((images[item].read for item in rest.tolist()), len(rest), threads, "hash test images")
    with ReadAhead(store.images) as ahead:
        reads = _store_reads(store, ahead)
        hash_R, there_R = _hashes(reads, store.info.rows, threads, "hash the store's images")
    alike = nearest_within(hashes, hash_R[there_R], bits=NEAR_BITS)
    rows_there = np.flatnonzero(there_R)
    matched = [
        (owners[item], int(rows_there[row]))
        for item, row, good in zip(rest.tolist(), alike.tolist(), readable.tolist(), strict=True)
        if good and row >= 0
    ]
    pairs += [(owner, table["key"][row].as_py()) for owner, row in matched[:20]]
    looks = [owner for owner in dict.fromkeys(owner for owner, _ in matched) if owner not in set(exact)]
    unreadable = int((~there_R).sum())
    return Found(items=len(dataset.test), exact=exact, near=looks, unreadable=unreadable, pairs=pairs)


def nearest_within(
    hash_N: npt.NDArray[np.uint64], hash_R: npt.NDArray[np.uint64], *, bits: int
) -> npt.NDArray[np.int64]:
    """Return the nearest of R hashes for each of N; -1 if none is within a Hamming distance.

    Every pair is compared, in blocks, so that memory is bounded.
    """
    best_N = np.full(len(hash_N), bits + 1, np.uint8)
    row_N = np.full(len(hash_N), -1, np.int64)
    step = max(1, 2**24 // max(1, len(hash_N)))
    for start in range(0, len(hash_R), step):
        distance_NR = np.bitwise_count(hash_N[:, None] ^ hash_R[None, start : start + step])
        found_N = distance_NR.argmin(axis=1)
        distance_N = distance_NR[np.arange(len(hash_N)), found_N]
        better_N = distance_N < best_N
        best_N[better_N], row_N[better_N] = distance_N[better_N], start + found_N[better_N]
    return row_N


def _test_images(split: Split) -> tuple[list[str], list[str], list[Image]]:
    """Return the item, the digest and the image of each test image; a slide has many."""
    if split.bags is not None:
        tiles = [
            (name, digest, image)
            for name, bag in zip(split.ids, split.bags, strict=True)
            for digest, image in zip(bag.digests, bag.images, strict=False)
        ]
    else:
        tiles = list(zip(split.ids, split.image_digests or [], split.images or [], strict=False))
    if not tiles:
        raise EvaluationError("the test items of this dataset are no images: there is nothing to compare")
    names, digests, images = zip(*tiles, strict=True)
    return list(names), list(digests), list(images)


def _hashes(
    reads: Iterable[Take], count: int, threads: int, label: str
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return the hash of each image, and whether it could be decoded."""

    def one(read: Take) -> int | None:
        try:
            return difference_hash(decode_image(read()))
        except PairDecodeError:
            return None

    found: list[int | None] = []
    waiting = iter(reads)
    with ThreadPoolExecutor(threads) as pool, progress(count, label=label, noun="images") as advance:
        while window := list(islice(waiting, AHEAD)):
            found += pool.map(one, window)
            advance(len(window))
    return np.array([value or 0 for value in found], np.uint64), np.array([value is not None for value in found], bool)


def _store_reads(store: FeatureStore, ahead: ReadAhead) -> Iterator[Take]:
    """Yield what reads each row's image, from the pixel cache if the store has one, else from the corpus."""
    try:
        cached = store.pixels.committed_rows()
    except IncompleteStoreError:
        cached = np.zeros(store.info.rows, bool)
    for start in range(0, store.info.rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, store.info.rows)
        places = store.pairs.read(start, stop, ["uri", "member"]).filter(~cached[start:stop])
        takes = iter(ahead.request(places.to_pylist()))
        for row in range(start, stop):
            yield partial(store.pixels.fetch, row) if cached[row] else next(takes)


def note_overlap(folder: Path, dataset: str, found: Found, *, store: str) -> int:
    """Put the counts into the records of a dataset's results; return the number of changed records."""
    noted = Overlap(exact=len(found.exact), near=len(found.near), store=store)
    records = [
        record
        for record in read_results(folder)
        if isinstance(record, ResultRecord) and record.dataset.name == dataset and record.overlap != noted
    ]
    for record in records:
        predictions = read_predictions(folder, record)
        write_result(folder, record.model_copy(update={"overlap": noted}), predictions)
    return len(records)
