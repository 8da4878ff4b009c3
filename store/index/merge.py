"""Turns the candidates of all corpus files into rows: finds duplicates, numbers rows, writes or returns the table."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.corpus.corpus_files import common_root, corpus_files
from store.corpus.curation import Keep
from store.corpus.near_duplicates import first_of_alike
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, repeated_keys
from store.io.location import Location

from .index_file import REPORT_KEY, FileIndexer, FileReport

KEYS_COMPARED = 100_000
"""Rows with a repeated hash whose keys are read, to tell repeated keys from keys that only hash alike."""

_HASHED = ("key", "image", "pair", "difference")

HASHES = ("group", *(f"{name}_hash" for name in _HASHED))

ReadPart = Callable[[], bytes]
"""Returns the candidates of one corpus file, as `FileIndexer.part` wrote them."""


@dataclass(kw_only=True, slots=True)
class Hashes:
    """Hashes that find duplicates, 40 bytes a row, so that those of all rows fit into memory.

    Attributes:
        group: number of the image; rows of one image are adjacent.
        key, image, pair, difference: hashes; 0 where null.
        has_image, has_difference: where they are not null.
    """

    group: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint64]
    image: npt.NDArray[np.uint64]
    pair: npt.NDArray[np.uint64]
    difference: npt.NDArray[np.uint64]
    has_image: npt.NDArray[np.bool_]
    has_difference: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table) -> Hashes:
        """Take them from candidates."""
        return cls(
            group=table["group"].to_numpy(),
            **{name: pc.fill_null(table[f"{name}_hash"], 0).to_numpy() for name in _HASHED},
            **{f"has_{name}": table[f"{name}_hash"].is_valid().to_numpy() for name in ("image", "difference")},
        )


@dataclass(kw_only=True, slots=True)
class Merged:
    """The candidates of all files, and which of them become rows.

    Attributes:
        keep_N: (N,) whether each becomes a row.
        same_image, same_pair: pairs whose image, or image and caption, an earlier pair has.
    """

    report: FileReport
    hashes: Hashes
    keep_N: npt.NDArray[np.bool_]
    part_rows: list[int]
    same_image: int = 0
    same_pair: int = 0


@dataclass(kw_only=True, frozen=True, slots=True)
class Known:
    """Hashes of the rows that a table has already, with which new rows are compared."""

    key: npt.NDArray[np.uint64]
    image: npt.NDArray[np.uint64]
    pair: npt.NDArray[np.uint64]
    difference: npt.NDArray[np.uint64]
    has_key: Callable[[str], bool]


_EMPTY = np.empty(0, np.uint64)

NOTHING = Known(key=_EMPTY, image=_EMPTY, pair=_EMPTY, difference=_EMPTY, has_key=lambda _: False)


def merge(parts: Sequence[ReadPart], keep: Keep, *, known: Known = NOTHING) -> Merged:
    """Decide which candidates become rows, in the order of the parts.

    Args:
        keep: rules; those that look at a pair alone were applied before.

    Raises:
        CorpusError: a key occurs twice.
    """
    report, tables, groups = FileReport(), [], 0
    for read in parts:
        file = pq.ParquetFile(pa.BufferReader(read()))
        report.add(FileReport.model_validate_json(file.metadata.metadata[REPORT_KEY.encode()]))
        table = file.read(columns=list(HASHES))
        tables.append(table.set_column(0, "group", pc.add(table["group"], groups)))
        groups += table["group"][-1].as_py() + 1 if table.num_rows else 0
    hashes = Hashes.of(pa.concat_tables(tables))
    part_rows = [table.num_rows for table in tables]
    merged = Merged(report=report, hashes=hashes, keep_N=np.ones(len(hashes.key), bool), part_rows=part_rows)
    _find_duplicates(merged, keep, known)
    if keep.near_duplicates is not None:
        _find_near_duplicates(merged, keep.near_duplicates, known)
    _refuse_repeated_keys(parts, merged, known)
    return merged


def _find_duplicates(merged: Merged, keep: Keep, known: Known) -> None:
    hashes = merged.hashes
    # The rows of one image count once: its captions are not duplicates of each other.
    groups_G, first_row_G, group_of_N = np.unique(hashes.group, return_index=True, return_inverse=True)
    image_again_G = hashes.has_image[first_row_G] & _seen_before(hashes.image[first_row_G], known.image)
    image_again_N = image_again_G[group_of_N] if len(groups_G) else np.zeros(0, bool)
    pair_again_N = hashes.has_image & _seen_before(hashes.pair, known.pair)
    merged.same_image, merged.same_pair = int(image_again_N.sum()), int(pair_again_N.sum())
    if keep.duplicates:
        refused_N = image_again_N if keep.duplicates == "image" else pair_again_N
        merged.report.dropped[f"duplicates: {keep.duplicates}"] = int(refused_N.sum())
        merged.keep_N &= ~refused_N


def _seen_before(values_N: npt.NDArray[np.uint64], known_K: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each value occurs earlier, or among the known ones."""
    again_N = np.ones(len(values_N), bool)
    again_N[np.unique(values_N, return_index=True)[1]] = False
    return again_N | np.isin(values_N, known_K)


def _find_near_duplicates(merged: Merged, max_distance: int, known: Known) -> None:
    hashes = merged.hashes
    asked_N = merged.keep_N & hashes.has_difference
    groups_G, first_row_G = np.unique(hashes.group[asked_N], return_index=True)
    differences_G = hashes.difference[asked_N][first_row_G]
    kept_G = first_of_alike(differences_G, max_distance=max_distance, known_K=known.difference)
    refused_N = asked_N & np.isin(hashes.group, groups_G[~kept_G])
    merged.report.dropped[f"near_duplicates: {max_distance}"] = int(refused_N.sum())
    merged.keep_N &= ~refused_N


def _refuse_repeated_keys(parts: Sequence[ReadPart], merged: Merged, known: Known) -> None:
    """Refuse keys that occur twice among the rows, or that a known row may have."""
    positions_K = np.flatnonzero(merged.keep_N)
    keys_K = merged.hashes.key[positions_K]
    again_K = _seen_before(keys_K, known.key)
    if not again_K.any():
        return
    suspects = positions_K[np.isin(keys_K, keys_K[again_K])][:KEYS_COMPARED]
    counts = Counter(keys_at(parts, merged, suspects))
    repeated = [key for key, count in counts.items() if count > 1 or known.has_key(key)]
    if repeated:
        complete = len(suspects) < KEYS_COMPARED
        raise repeated_keys(len(repeated) if complete else len(np.unique(keys_K[again_K])), repeated)


def keys_at(parts: Sequence[ReadPart], merged: Merged, positions: npt.NDArray[np.int64]) -> list[str]:
    """Return the keys of some candidates, by their ascending positions among all."""
    keys: list[str] = []
    start = 0
    for read, rows in zip(parts, merged.part_rows, strict=True):
        here = positions[(positions >= start) & (positions < start + rows)] - start
        if len(here):
            column = pq.ParquetFile(pa.BufferReader(read())).read(columns=["key"])["key"]
            keys += column.take(pa.array(here)).to_pylist()
        start += rows
    return keys


def write_rows(parts: Sequence[ReadPart], merged: Merged, writer: PairWriter) -> Counter[str | None]:
    """Write the kept candidates as rows; returns how many have each modality."""
    modalities: Counter[str | None] = Counter()
    start = 0
    for read in parts:
        file = pq.ParquetFile(pa.BufferReader(read()))
        for batch in file.iter_batches(columns=[name for name in PAIR_SCHEMA.names if name != "row"]):
            table = pa.Table.from_batches([batch])
            kept = table.filter(pa.array(merged.keep_N[start : start + table.num_rows]))
            start += table.num_rows
            writer.add(kept)
            counts = pc.value_counts(kept["modality"])
            modalities.update({entry["values"].as_py(): entry["counts"].as_py() for entry in counts})
    return modalities


@dataclass(kw_only=True, slots=True)
class CorpusIndex:
    """Pairs found in a corpus.

    Attributes:
        root: the folder or URL that the table's uris are relative to.
        problems: one line per pair whose members are not as they should be; such a pair is kept.
    """

    table: pa.Table
    root: str | os.PathLike[str] | Location
    problems: list[str] = field(default_factory=list)


def read_corpus(corpus: Corpus) -> CorpusIndex:
    """Read a corpus into memory and return the table of its pairs, by the rules of its ``keep``.

    For one that is small or read once, such as the pairs of a stage-1 training.

    A pair without image or without caption is a row too, unless a rule refuses it: extraction gives it a bad status and
    a reason, so that no pair is lost silently.

    Raises:
        CorpusError: a file cannot be read, a key occurs twice, or there is no pair at all.
    """
    files = corpus_files(corpus.files)
    root = common_root(files)
    parts = [FileIndexer(file, corpus, root=root).part() for file in files]
    merged = merge([functools.partial(bytes, part) for part in parts], corpus.keep)
    require_pairs(merged.report, rows=int(merged.keep_N.sum()), files=len(files))
    columns = [name for name in PAIR_SCHEMA.names if name != "row"]
    candidates = pa.concat_tables([pq.read_table(pa.BufferReader(part), columns=columns) for part in parts])
    kept = candidates.filter(pa.array(merged.keep_N))
    table = kept.add_column(0, PAIR_SCHEMA.field("row"), pa.array(np.arange(kept.num_rows))).cast(PAIR_SCHEMA)
    return CorpusIndex(table=table, root=root, problems=merged.report.problems)


def require_pairs(report: FileReport, *, rows: int, files: int) -> None:
    """Refuse a corpus without any pair: the CorpusError says whether the corpus or the rules leave none."""
    if not report.usable:
        raise CorpusError(
            f"the corpus holds no pair: {files} files were read, {report.pairs} keys found, and none has both an "
            "image and a caption",
            hint="in a tar a pair is KEY.jpg (or .png, ...) and KEY.txt, side by side; in a table, a row with both",
        )
    if not rows:
        refused = ", ".join(f"{rule}: {count}" for rule, count in report.dropped.items() if count)
        raise CorpusError(
            f"the rules of the corpus keep none of its {report.pairs} pairs ({refused})",
            hint="python -m extract index --report prints what each rule refuses; relax keep: in pipelines.yaml",
        )
