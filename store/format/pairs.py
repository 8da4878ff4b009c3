"""The pair table: the key, caption and place of the image of each row."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.errors import CorpusError, CorruptChunkError, StoreError, StoreNotFoundError
from store.io.folder import Folder
from store.io.location import Location
from store.io.object_file import open_parquet

from .key_index import KeyIndex, hash_texts
from .records import StoreInfo

MEMBER = pa.struct([("offset", pa.int64()), ("nbytes", pa.int64()), ("column", pa.string()), ("row", pa.int64())])
"""The place of an image inside a corpus file: offset and nbytes in a tar, column and row in a Parquet file.

Null where the file at the uri is the image itself or there is none.
"""

PART_NAME = re.compile(r"pairs/part-\d+\.parquet")

PART_ROWS = 131_072
"""Rows of a ``pairs/part-*.parquet`` (about 30 MB): what appending rewrites at most, and what a writer holds."""

PAIR_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("member", MEMBER),
        pa.field("caption", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("split", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("source", pa.string()),
        pa.field("license", pa.string()),
    ]
)
"""Columns of ``pairs/part-*.parquet``; uri is relative to the corpus root, null where the pair has no image."""


def repeated_keys(count: int, examples: Sequence[str]) -> CorpusError:
    """Return the error that refuses keys which occur more than once."""
    shown = ", ".join(repr(key) for key in examples[:5])
    return CorpusError(
        f"keys that occur more than once in the corpus: {count}, for instance {shown}; a key names one pair",
        hint="set qualify_keys: true for the corpus in pipelines.yaml to put the file's name before each key, "
        "or remove the repeated pairs",
    )


def check_keys(keys: Sequence[str]) -> None:
    """Refuse, with a CorpusError, keys that occur twice."""
    counts = pc.value_counts(pa.array(keys, pa.string()))
    repeated = [entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1]
    if repeated:
        raise repeated_keys(len(repeated), repeated)


def part_key(number: int) -> str:
    """Return where a part of the pair table lies in a store."""
    return f"pairs/part-{number:05d}.parquet"


class PairWriter:
    """Writes the pair table in parts of bounded size, whose row groups are the store's ranges.

    Args:
        range_rows: R; every row group but the table's last has R rows.
        part_rows: rows of a part, rounded down to whole ranges.
        first_part_rows: rows of the first part that is written, rounded up, if it may be larger.
    """

    def __init__(
        self,
        location: Location,
        *,
        range_rows: int,
        first_part: int = 0,
        first_row: int = 0,
        part_rows: int = PART_ROWS,
        first_part_rows: int | None = None,
    ) -> None:
        self._location, self._range_rows = location, range_rows
        self._part, self.rows = first_part, first_row
        self._part_rows = range_rows * max(1, part_rows // range_rows)
        self._room = self._part_rows if first_part_rows is None else range_rows * -(-first_part_rows // range_rows)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        # The first part may exist and grow, so it is written last: until then the store reads as before.
        self._first_part, self._first_bytes = first_part, b""

    def add(self, table: pa.Table) -> None:
        """Take rows, of PAIR_SCHEMA with or without ``row``, which is counted here."""
        self._waiting.append(table.select([name for name in PAIR_SCHEMA.names if name != "row"]))
        self._waiting_rows += table.num_rows
        while self._waiting_rows >= self._room:
            self._write(self._room)
            self._room = self._part_rows

    def close(self) -> int:
        """Write what is left and return the number of rows of the whole table."""
        if self._waiting_rows or self._part == self._first_part:
            self._write(self._waiting_rows)
        self._location.write(part_key(self._first_part), self._first_bytes)
        return self.rows

    def _write(self, rows: int) -> None:
        whole = pa.concat_tables(self._waiting) if self._waiting else PAIR_SCHEMA.remove(0).empty_table()
        part, rest = whole.slice(0, rows), whole.slice(rows)
        numbers = pa.array(np.arange(self.rows, self.rows + rows, dtype=np.int64))
        buffer = io.BytesIO()
        pq.write_table(
            part.add_column(0, PAIR_SCHEMA.field("row"), numbers).cast(PAIR_SCHEMA),
            buffer,
            row_group_size=self._range_rows,
            compression="zstd",
        )
        if self._part == self._first_part:
            self._first_bytes = buffer.getvalue()
        else:
            self._location.write(part_key(self._part), buffer.getvalue())
        self._waiting, self._waiting_rows = [rest] if rest.num_rows else [], rest.num_rows
        self._part, self.rows = self._part + 1, self.rows + rows


def _row_group(file: pq.ParquetFile, group: int, columns: list[str], *, use_threads: bool) -> pa.Table:
    try:
        return file.read_row_group(group, columns=columns, use_threads=use_threads)
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, StoreError):
            raise
        raise CorruptChunkError(
            f"the pair table cannot be read: {error}",
            hint="if rows were appended since the store was opened, open it again; else python -m store verify STORE",
        ) from error


class PairTable:
    """The pair table of a store, read in parts.

    Args:
        rows: as store.json says; rows beyond them, left by an append that was killed, are ignored.
    """

    def __init__(self, location: Location, *, rows: int) -> None:
        keys = [key for key, _ in location.list("pairs") if PART_NAME.fullmatch(key)]
        if not keys:
            raise StoreNotFoundError(f"{location}: the pair table pairs/part-*.parquet is missing")
        self._use_threads = isinstance(location, Folder)
        self._parts = [int(key.removeprefix("pairs/part-").removesuffix(".parquet")) for key in keys]
        try:
            self._files = [open_parquet(location, key, in_blocks=True) for key in keys]
        except pa.ArrowInvalid as error:
            raise StoreError(f"{location}: the pair table cannot be read: {error}") from error
        self._rows, self._key_index = rows, KeyIndex(location, rows=rows)
        self._groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.num_row_groups)
        ]
        self._ends = np.cumsum([rows_in_group for _, _, rows_in_group in self._groups])
        found = int(self._ends[-1]) if len(self._ends) else 0
        if found < rows:
            raise StoreError(f"{location}: the pair table has {found} rows, store.json says {rows}")

    def last_part(self) -> tuple[int, int]:
        """Return the first row of the last part, and the part's number."""
        start = first_row = number = 0
        for part, file in zip(self._parts, self._files, strict=True):
            if start < self._rows:
                first_row, number = start, part
            start += file.metadata.num_rows
        return first_row, number

    def read(self, start: int, stop: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Return rows ``start`` to ``stop`` (exclusive) as an Arrow table of the given columns."""
        names = list(columns) if columns is not None else PAIR_SCHEMA.names
        if start >= stop:
            return PAIR_SCHEMA.empty_table().select(names)
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop - 1, side="right"))
        groups = self._groups[first : last + 1]
        parts = [_row_group(file, group, names, use_threads=self._use_threads) for file, group, _ in groups]
        begin = int(self._ends[first - 1]) if first else 0
        # The first parts of an old store, from before Parquet corpora, have a member of two fields.
        wanted = pa.schema([PAIR_SCHEMA.field(name) for name in names])
        parts = [part.select(names).cast(wanted) for part in parts]
        return pa.concat_tables(parts).slice(start - begin, stop - start)

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the whole table, some rows at a time."""
        for start in range(0, self._rows, PART_ROWS):
            yield self.read(start, min(start + PART_ROWS, self._rows), columns)

    def key_hashes(self) -> npt.NDArray[np.uint64]:
        """Return (N,) the hashes of all keys."""
        return np.concatenate([hash_texts(table["key"].to_pylist()) for table in self.blocks(["key"])])

    def row_of(self, key: str) -> int:
        """Return the row of a key.

        Raises:
            StoreError: no pair has that key.
        """
        candidates = self._key_index.rows_of(key)
        if candidates is None:
            return self._search(key)
        for row in candidates:
            if self.read(row, row + 1, ["key"])["key"][0].as_py() == key:
                return row
        raise StoreError(f"no pair has the key {key!r}")

    def _search(self, key: str) -> int:
        """Search the whole table, for a store without key index."""
        end = 0
        for file, group, rows_in_group in self._groups:
            found = pc.index(_row_group(file, group, ["key"], use_threads=False)["key"], key).as_py()
            if found >= 0 and end + found < self._rows:
                return int(end + found)
            end += rows_in_group
        raise StoreError(f"no pair has the key {key!r}")


def strings(table: pa.Table, column: str) -> npt.NDArray[np.object_]:
    """Return a string column as an object array, with None for null."""
    values: npt.NDArray[np.object_] = table[column].to_numpy(zero_copy_only=False)
    return values


def only_caption(pairs: PairTable, info: StoreInfo) -> str | None:
    """Return the caption that all rows of a store have; None where two differ or there are fewer than two."""
    only: str | None = None
    for range_id in range(info.ranges if info.rows > 1 else 0):
        found = pc.unique(pairs.read(*info.bounds(range_id), ["caption"])["caption"].combine_chunks()).to_pylist()
        only = found[0] if range_id == 0 else only
        if found != [only]:
            return None
    return only


def pairs_digest(table: pa.Table) -> str:
    """Return the digest of a range's keys, captions and image contents, on which features depend.

    The places of the images are left out on purpose: a corpus that moved is the same corpus.
    """
    digest = hashlib.sha256()
    for pair in table.select(["key", "caption", "image_sha256"]).to_pylist():
        digest.update(json.dumps([pair["key"], pair["caption"], pair["image_sha256"]]).encode())
        digest.update(b"\n")
    return digest.hexdigest()
