"""The pair table: the key, caption and place of the image of each row."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.config.problems import it_has
from store.errors import CorpusError, StoreError, StoreNotFoundError
from store.io.folder import Folder
from store.io.location import Location
from store.io.object_file import open_parquet, reading

from .key_index import KeyIndex
from .records import StoreInfo

MEMBER = pa.struct([("offset", pa.int64()), ("nbytes", pa.int64()), ("column", pa.string()), ("row", pa.int64())])
"""The place of an image inside a corpus file: offset and nbytes in a tar or zip, column and row in a Parquet file.

With an offset the column ``deflate`` says that these bytes are deflated, as zips have them.

Null where the file at the uri is the image itself or there is none.
"""

PART_NAME = re.compile(r"pairs/part-\d+\.parquet")

PAIRS_METADATA = "mmkd.pairs"
"""Key in the metadata of a part: its bytes of data, and the digests of its ranges, which hold for those data alone."""

DIGESTED = ("key", "caption", "image_sha256")
"""Columns on which features depend."""

UNREADABLE_HINT = (
    "if rows were appended since the store was opened, open it again; else python -m store verify STORE --deep says "
    "what is damaged"
)

OPEN_PARTS = 8
"""Parts that are kept open, each with a file and its footer (60 KB at 131,072 rows and 64 ranges)."""

BLOCK_ROWS = 131_072
"""Rows that are held when the whole table is read."""

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
        hint="if they are of several files, qualify_keys: true for the corpus in pipelines.yaml puts the file's name "
        "before each key; if they are of one file, remove the repeated pairs",
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


def _row_group(file: pq.ParquetFile, group: int, columns: list[str], *, use_threads: bool) -> pa.Table:
    with reading("the pair table", hint=UNREADABLE_HINT):
        return file.read_row_group(group, columns=columns, use_threads=use_threads)


@dataclass(kw_only=True, frozen=True, slots=True)
class _Part:
    """A part of the pair table, open.

    Attributes:
        ends_G: (row groups,) row of the table after the last of each.
        digests: of each range that has rows here, from its first row to the last one here: by range and row after it.
    """

    file: pq.ParquetFile
    ends_G: npt.NDArray[np.int64]
    digests: Mapping[tuple[int, int], str]


def part_keys(location: Location, info: StoreInfo) -> list[str]:
    """Return where the parts of a store's pair table lie, in order; in format 1 they are found by listing.

    Raises:
        StoreNotFoundError: there is none.
    """
    if info.parts is not None:
        return [part_key(number) for number in range(len(info.parts))]
    keys = [key for key, _ in location.list("pairs") if PART_NAME.fullmatch(key)]
    if not keys:
        raise StoreNotFoundError(f"{location}: the pair table pairs/part-*.parquet is missing")
    return keys


class PairTable:
    """The pair table of a store. Only the parts that hold rows that are asked for are opened, few at a time.

    Args:
        info: as store.json says; rows that it does not name, left by an append that was killed, are ignored.

    Attributes:
        rows: as store.json says.
        parts: rows of each part.

    Raises:
        StoreError: the table has fewer rows than store.json says, or cannot be read; said when a part is opened.
    """

    def __init__(self, location: Location, info: StoreInfo) -> None:
        self._location, self.rows, self._range_rows = location, info.rows, info.range_rows
        self._use_threads = isinstance(location, Folder)
        # In format 2 a key follows from its number: there may be a thousand of them.
        self._listed = None if info.parts is not None else part_keys(location, info)
        self._key_index = KeyIndex(location, info)
        self._part = functools.lru_cache(maxsize=OPEN_PARTS)(self._open)
        self.parts = info.parts or [self._open_file(key).metadata.num_rows for key in self._listed or ()]
        self._ends = np.cumsum(self.parts, dtype=np.int64)
        rows = sum(self.parts)
        if rows < info.rows or (info.parts is not None and rows != info.rows):
            raise StoreError(f"{location}: the pair table has {rows} rows, store.json says {info.rows}")

    def check(self) -> None:
        """Open every part once.

        Raises:
            StoreError: one is missing, cannot be opened, or has not the rows that store.json says.
        """
        for number in range(len(self.parts)):
            self._open(number)

    def _open_file(self, key: str) -> pq.ParquetFile:
        try:
            with reading(f"{self._location}: the pair table's part {key}", hint=UNREADABLE_HINT):
                return open_parquet(self._location, key, in_blocks=True, check_pages=True)
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"{self._location}: the pair table's part {key} is missing") from error

    def _open(self, number: int) -> _Part:
        key = self._listed[number] if self._listed else part_key(number)
        file = self._open_file(key)
        found, rows = file.metadata.num_rows, self.parts[number]
        if found != rows:
            raise StoreError(f"{self._location}: {key} has {found} rows, store.json says {rows}")
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends_G = np.cumsum(groups, dtype=np.int64) + (self._ends[number] - rows)
        return _Part(file=file, ends_G=ends_G, digests=_stated_digests(file.metadata))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[_Part, int, int]]:
        """Yield part, row group, and the group's first row, for each row group that holds some of the rows."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop - 1, side="right"))
        for number in range(first, last + 1):
            part = self._part(number)
            begin = int(self._ends[number]) - self.parts[number]
            for group, end in enumerate(part.ends_G.tolist()):
                if begin < stop and end > start:
                    yield part, group, begin
                begin = end

    def read(self, start: int, stop: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Return rows ``start`` to ``stop`` (exclusive) as an Arrow table of the given columns.

        Raises:
            StoreError: the table has no such rows or columns, or cannot be read.
        """
        names = list(columns) if columns is not None else PAIR_SCHEMA.names
        if isinstance(columns, str):
            raise StoreError(f"columns: expected a list of names, got the text {columns!r}")
        for name in names:
            if name not in PAIR_SCHEMA.names:
                raise StoreError(f"the pair table has no column {name!r}{it_has(name, PAIR_SCHEMA.names)}")
        if not all(isinstance(row, int | np.integer) and 0 <= row <= self.rows for row in (start, stop)):
            raise StoreError(f"rows {start!r} to {stop!r} of a pair table that has {self.rows}; rows count from 0")
        wanted = pa.schema([PAIR_SCHEMA.field(name) for name in names])
        if start >= stop:
            return wanted.empty_table()
        pieces, first = [], start
        for part, group, begin in self._pieces(start, stop):
            first = min(first, begin)
            piece = _row_group(part.file, group, names, use_threads=self._use_threads)
            # The first parts of an old store, from before Parquet corpora, have a member of two fields.
            pieces.append(piece.select(names).cast(wanted))
        return pa.concat_tables(pieces).slice(start - first, stop - start)

    def take(self, rows_K: npt.NDArray[np.int64], columns: Iterable[str] | None = None) -> pa.Table:
        """Return some rows, given in ascending order, as an Arrow table; each range that holds some is read once."""
        names = list(columns) if columns is not None else PAIR_SCHEMA.names
        tables = [self.read(0, 0, names)]
        for here in np.split(rows_K, np.flatnonzero(np.diff(rows_K // self._range_rows)) + 1) if len(rows_K) else ():
            first, last = int(here[0]), int(here[-1])
            tables.append(self.read(first, last + 1, names).take(pa.array(here - first)))
        return pa.concat_tables(tables)

    def digest(self, start: int, stop: int) -> str:
        """Return the `pairs_digest` of rows of one range, from its first on; as its part states it, where it does."""
        return self.stated_digest(start, stop) or pairs_digest(self.read(start, stop, DIGESTED))

    def stated_digest(self, start: int, stop: int) -> str | None:
        """Return the digest of rows of one range as their part states it; None where it does not."""
        number = int(np.searchsorted(self._ends, stop - 1, side="right"))
        stated = self._part(number).digests.get((start // self._range_rows, stop))
        return stated if start % self._range_rows == 0 else None

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the whole table, some rows at a time."""
        for start in range(0, self.rows, BLOCK_ROWS):
            yield self.read(start, min(start + BLOCK_ROWS, self.rows), columns)

    def row_of(self, key: str) -> int:
        """Return the row of a key.

        Raises:
            StoreError: no pair has that key.
        """
        if not isinstance(key, str) or key != key.encode(errors="replace").decode():
            raise StoreError(f"no pair has the key {key!r}")
        candidates = self._key_index.rows_of(key)
        if candidates is None:
            return self._search(key)
        for row in candidates:
            if self.read(row, row + 1, ["key"])["key"][0].as_py() == key:
                return row
        raise StoreError(f"no pair has the key {key!r}")

    def _search(self, key: str) -> int:
        """Search the whole table, for a store without key index."""
        for part, group, begin in self._pieces(0, self.rows) if self.rows else ():
            found = pc.index(_row_group(part.file, group, ["key"], use_threads=False)["key"], key).as_py()
            if found >= 0 and begin + found < self.rows:
                return int(begin + found)
        raise StoreError(f"no pair has the key {key!r}")


def _stated_digests(metadata: pq.FileMetaData) -> dict[tuple[int, int], str]:
    """Return the digests that a part states of its rows; none where another tool has rewritten the part."""
    try:
        stated = json.loads((metadata.metadata or {})[PAIRS_METADATA.encode()])
        chunks = ((group, column) for group in range(metadata.num_row_groups) for column in range(metadata.num_columns))
        data_bytes = sum(metadata.row_group(group).column(column).total_compressed_size for group, column in chunks)
        if stated["data_bytes"] != data_bytes:
            return {}
        return {(range_id, stop): digest for range_id, stop, digest in stated["digests"]}
    except (KeyError, TypeError, ValueError):
        return {}


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
    return hashlib.sha256(digest_lines(table)).hexdigest()


def digest_lines(table: pa.Table) -> bytes:
    """Return the lines over which the digest of some rows is taken."""
    columns = (table[name].to_pylist() for name in DIGESTED)
    return "".join(f"{json.dumps(pair)}\n" for pair in zip(*columns, strict=True)).encode()
