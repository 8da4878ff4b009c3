"""Turns the candidates of all corpus files into rows: finds duplicates, numbers rows, writes or returns the table."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.corpus.account import Account
from store.corpus.corpus_files import common_root, corpus_files, qualifiers
from store.corpus.curation import Keep
from store.corpus.near_duplicates import first_of_alike
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.format.key_index import KeyIndexWriter
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, repeated_keys
from store.io.location import Location
from store.io.scratch import scratch_database

from .index_file import ACCOUNT_KEY, FileIndexer

if TYPE_CHECKING:
    import duckdb

KEYS_COMPARED = 100_000
"""Rows with a repeated hash whose keys are read, to tell repeated keys from keys that only hash alike."""

HASHES = ("group", "key_hash", "image_hash", "pair_hash", "difference_hash")

CANDIDATES = pa.schema(
    [
        ("position", pa.int64()),
        ("image_number", pa.int64()),
        ("key", pa.uint64()),
        ("image", pa.uint64()),
        ("pair", pa.uint64()),
        ("difference", pa.uint64()),
    ]
)
"""The table ``candidates`` of a merge: those of all files in order, and the rows of an older table before them.

Positions count from 0; those of older rows are negative. Rows of one image have one image_number and are neighbours.
"""

OpenPart = Callable[[], pq.ParquetFile]
"""Opens the candidates of one corpus file, as `FileIndexer.part` wrote them."""

Cursor = Iterator[pa.RecordBatch]

BATCH_ROWS = 65_536

SHOWN = 3
"""Reasons that an error lists."""


@dataclass(kw_only=True, slots=True)
class Merged:
    """The candidates of all files, and which of them become rows.

    Attributes:
        keep_N: (N,) whether each becomes a row.
        same_image, same_pair: pairs whose image, or image and caption, an earlier pair has.
    """

    account: Account
    keep_N: npt.NDArray[np.bool_]
    part_rows: list[int]
    same_image: int = 0
    same_pair: int = 0


def create_candidates(database: duckdb.DuckDBPyConnection) -> None:
    """Create the table ``candidates`` unless it is there."""
    columns = ", ".join(f"{name} {'BIGINT' if place < 2 else 'UBIGINT'}" for place, name in enumerate(CANDIDATES.names))
    database.execute(f"CREATE TABLE IF NOT EXISTS candidates ({columns})")


def _nobody(_: str) -> bool:
    return False


def merge(
    database: duckdb.DuckDBPyConnection,
    parts: Sequence[OpenPart],
    keep: Keep,
    *,
    has_key: Callable[[str], bool] = _nobody,
) -> Merged:
    """Decide which candidates become rows, in the order of the parts.

    Memory holds a byte a candidate, and for the rule ``near_duplicates`` its hashes; the database holds the rest.

    Args:
        database: its ``candidates`` may hold the rows of an older table.
        keep: rules; those that look at a pair alone were applied before.
        has_key: whether a key is one of an older row.

    Raises:
        CorpusError: a key occurs twice.
    """
    create_candidates(database)
    account, part_rows, images = Account(), [0], 0
    for open_part in parts:
        file, begin, last = open_part(), sum(part_rows), -1
        account.add(Account.model_validate_json(file.metadata.metadata[ACCOUNT_KEY.encode()]))
        for batch in file.iter_batches(BATCH_ROWS, columns=list(HASHES), use_threads=False):
            if batch.num_rows:
                group, *hashes = (batch[name] for name in HASHES)
                positions = np.arange(begin, begin + batch.num_rows)
                table = pa.table([positions, pc.add(group, images), *hashes], schema=CANDIDATES)
                database.from_arrow(table).insert_into("candidates")
                begin, last = begin + batch.num_rows, group[-1].as_py()
        images += last + 1
        part_rows.append(begin - sum(part_rows))
    merged = Merged(account=account, keep_N=np.ones(sum(part_rows), bool), part_rows=part_rows[1:])
    _find_duplicates(database, merged, keep)
    if keep.near_duplicates is not None:
        _find_near_duplicates(database, merged, keep.near_duplicates)
    _refuse_repeated_keys(database, parts, merged, has_key)
    return merged


def _rows(database: duckdb.DuckDBPyConnection, query: str) -> Cursor:
    yield from database.sql(query).to_arrow_reader(BATCH_ROWS)


def _seen_before(database: duckdb.DuckDBPyConnection, merged: Merged, column: str, order: str) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each candidate's value of a column occurs earlier in an order."""
    again_N = np.zeros(len(merged.keep_N), bool)
    query = f"""
        SELECT position FROM candidates JOIN (
            SELECT {column}, min({order}) AS earliest FROM candidates WHERE {column} IS NOT NULL
            GROUP BY {column} HAVING min({order}) < max({order})
        ) USING ({column}) WHERE position >= 0 AND {order} > earliest"""  # noqa: S608 - names of columns
    for batch in _rows(database, query):
        again_N[batch["position"].to_numpy()] = True
    return again_N


def _find_duplicates(database: duckdb.DuckDBPyConnection, merged: Merged, keep: Keep) -> None:
    # The rows of one image count once: its captions are not duplicates of each other.
    image_again_N = _seen_before(database, merged, "image", "image_number")
    pair_again_N = _seen_before(database, merged, "pair", "position")
    merged.same_image, merged.same_pair = int(image_again_N.sum()), int(pair_again_N.sum())
    if keep.duplicates:
        _refuse(merged, f"duplicates: {keep.duplicates}", image_again_N if keep.duplicates == "image" else pair_again_N)


def _refuse(merged: Merged, rule: str, refused_N: npt.NDArray[np.bool_]) -> None:
    merged.account.dropped[rule] = int(refused_N.sum())
    merged.keep_N &= ~refused_N


def _find_near_duplicates(database: duckdb.DuckDBPyConnection, merged: Merged, max_distance: int) -> None:
    query = "SELECT position, image_number, difference FROM candidates WHERE difference IS NOT NULL AND position >= 0"
    images, hashes, seen = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], -1
    for position_B, image_B, hash_B in _hashes(database, merged, f"{query} ORDER BY position"):
        first_B = np.diff(image_B, prepend=seen) > 0
        images.append(image_B[first_B])
        hashes.append(hash_B[first_B])
        seen = image_B[-1] if len(image_B) else seen
        del position_B
    older = database.sql("SELECT DISTINCT difference FROM candidates WHERE position < 0 AND difference IS NOT NULL")
    known_K = older.to_arrow_table()["difference"].to_numpy()
    images_G = np.concatenate(images)
    kept_G = first_of_alike(np.concatenate(hashes), max_distance=max_distance, known_K=known_K)
    alike_N = np.zeros(len(merged.keep_N), bool)
    for position_B, image_B, _ in _hashes(database, merged, f"{query} ORDER BY position"):
        alike_N[position_B[~kept_G[np.searchsorted(images_G, image_B)]]] = True
    _refuse(merged, f"near_duplicates: {max_distance}", alike_N)


def _hashes(database: duckdb.DuckDBPyConnection, merged: Merged, query: str) -> Iterator[list[npt.NDArray[Any]]]:
    """Yield the columns of some candidates that are still kept."""
    for batch in _rows(database, query):
        columns = [column.to_numpy() for column in batch.columns]
        kept_B = merged.keep_N[columns[0]]
        yield [column[kept_B] for column in columns]


def _refuse_repeated_keys(
    database: duckdb.DuckDBPyConnection, parts: Sequence[OpenPart], merged: Merged, has_key: Callable[[str], bool]
) -> None:
    """Refuse keys that occur twice among the rows, or that an older row may have."""
    database.execute("CREATE TABLE refused (position BIGINT)")
    for start in range(0, len(merged.keep_N), BATCH_ROWS):
        refused = start + np.flatnonzero(~merged.keep_N[start : start + BATCH_ROWS])
        database.from_arrow(pa.table({"position": refused})).insert_into("refused")
    database.execute(
        "CREATE VIEW kept AS FROM candidates ANTI JOIN refused USING (position); CREATE TABLE repeated AS SELECT key "
        "FROM kept WHERE key IS NOT NULL GROUP BY key HAVING count(*) > 1 AND max(position) >= 0"
    )
    again = len(database.table("repeated"))
    if not again:
        return
    rows = database.sql("SELECT position FROM kept SEMI JOIN repeated USING (key) WHERE position >= 0")
    suspects = rows.order("position").limit(KEYS_COMPARED).to_arrow_table()["position"].to_numpy()
    counts = Counter(keys_at(parts, merged, suspects))
    repeated = [key for key, count in counts.items() if count > 1 or has_key(key)]
    if repeated:
        raise repeated_keys(len(repeated) if len(suspects) < KEYS_COMPARED else again, repeated)


def keys_at(parts: Sequence[OpenPart], merged: Merged, positions: npt.NDArray[np.int64]) -> list[str]:
    """Return the keys of some candidates, by their ascending positions among all."""
    keys: list[str] = []
    start = 0
    for open_part, rows in zip(parts, merged.part_rows, strict=True):
        here = positions[(positions >= start) & (positions < start + rows)] - start
        if len(here):
            column = open_part().read(columns=["key"], use_threads=False)["key"]
            keys += column.take(pa.array(here)).to_pylist()
        start += rows
    return keys


def write_rows(
    parts: Sequence[OpenPart], merged: Merged, writer: PairWriter, index: KeyIndexWriter
) -> Counter[str | None]:
    """Write the kept candidates as rows, and their keys to the index; returns how many rows have each modality."""
    modalities: Counter[str | None] = Counter()
    columns = [name for name in PAIR_SCHEMA.names if name != "row"]
    start, row = 0, writer.rows
    for open_part in parts:
        file = open_part()
        for batch in file.iter_batches(columns=[*columns, "key_hash", "difference_hash"], use_threads=False):
            table = pa.Table.from_batches([batch])
            kept = table.filter(pa.array(merged.keep_N[start : start + table.num_rows]))
            start += table.num_rows
            writer.add(kept)
            index.add(kept["key_hash"], row, kept["difference_hash"])
            row += kept.num_rows
            counts = pc.value_counts(kept["modality"])
            modalities.update({entry["values"].as_py(): entry["counts"].as_py() for entry in counts})
    return modalities


@dataclass(kw_only=True, slots=True)
class CorpusIndex:
    """Pairs found in a corpus.

    Attributes:
        root: the folder or URL that the table's uris are relative to.
        account: of what was read.
    """

    table: pa.Table
    root: str | os.PathLike[str] | Location
    account: Account = field(default_factory=Account)


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
    prefixes = qualifiers(files, root) if corpus.qualify_keys else {}
    parts = [FileIndexer(file, corpus, root=root, prefix=prefixes.get(file.uri, "")).part() for file in files]
    with scratch_database() as database:
        merged = merge(database, [functools.partial(_in_memory, part) for part in parts], corpus.keep)
    require_pairs(merged.account, rows=int(merged.keep_N.sum()))
    columns = [name for name in PAIR_SCHEMA.names if name != "row"]
    candidates = pa.concat_tables([pq.read_table(pa.BufferReader(part), columns=columns) for part in parts])
    kept = candidates.filter(pa.array(merged.keep_N))
    table = kept.add_column(0, PAIR_SCHEMA.field("row"), pa.array(np.arange(kept.num_rows))).cast(PAIR_SCHEMA)
    return CorpusIndex(table=table, root=root, account=merged.account)


def _in_memory(part: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(part))


def require_pairs(account: Account, *, rows: int) -> None:
    """Refuse a corpus without any pair: the CorpusError says whether the corpus or the rules leave none."""
    if not account.usable:
        commonest = sorted(account.passed.items(), key=lambda entry: -entry[1].count)[:SHOWN]
        seen = "".join(f"; {found.count} times {reason}, first {found.first}" for reason, found in commonest)
        raise CorpusError(
            f"the corpus holds no pair of an image and a caption: {account.files} files, {account.members} members and "
            f"{account.keys} keys were read{seen}",
            hint=None if seen else "correct corpora.NAME.files in pipelines.yaml",
        )
    if not rows:
        refused = ", ".join(f"{rule}: {count}" for rule, count in account.dropped.items() if count)
        raise CorpusError(
            f"the rules of the corpus keep none of its {account.pairs} pairs ({refused})",
            hint="python -m extract index --report prints what each rule refuses; relax keep: in pipelines.yaml",
        )
