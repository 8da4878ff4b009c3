"""Finds the row of a key without reading the pair table: a file of the sorted hashes of all keys."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.errors import StoreError
from store.io.location import Location
from store.io.object_file import open_parquet, reading
from store.io.scratch import scratch_database

from .records import StoreInfo

if TYPE_CHECKING:
    import duckdb

KEY_INDEX = "keys.parquet"

KEY_INDEX_1 = "pairs/keys.parquet"
"""The place of the key index in format 1."""

GROUP_ROWS = 65_536
"""Hashes read for one lookup: 45 groups at 2.9 M rows, of half a megabyte each."""

SCHEMA = pa.schema(
    [
        pa.field("key_hash", pa.uint64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("difference_hash", pa.uint64()),
    ]
)
"""Columns of ``keys.parquet``, ordered by key_hash and row; difference_hash is there where a rule needed it."""


def hash_text(text: str) -> int:
    """Return the first 64 bits of the BLAKE2b digest of a text in UTF-8."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hash_texts(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return `hash_text` of each text."""
    return np.fromiter(map(hash_text, texts), np.uint64)


class KeyIndexWriter:
    """Collects the keys of a pair table in the table ``keys`` of a `scratch_database`, and writes its key index."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        database.execute("CREATE TABLE keys (key_hash UBIGINT, row BIGINT, difference_hash UBIGINT)")

    def add(
        self, key_hashes: npt.NDArray[np.uint64] | pa.ChunkedArray, first_row: int, differences: Any = None
    ) -> None:
        """Take the keys of neighbouring rows.

        Args:
            differences: the difference hash of each row's image, where a rule compares them with later pairs.
        """
        rows = pa.array(np.arange(first_row, first_row + len(key_hashes)))
        columns = [key_hashes, rows, pa.nulls(len(rows), pa.uint64()) if differences is None else differences]
        self.add_entries(pa.table(columns, schema=SCHEMA))

    def add_entries(self, table: pa.Table) -> None:
        """Take entries of SCHEMA, in any order."""
        self._database.from_arrow(table).insert_into("keys")

    def write(self, location: Location) -> None:
        """Write the index of all keys that were taken."""
        ordered = self._database.sql("SELECT * FROM keys ORDER BY key_hash, row").to_arrow_reader(GROUP_ROWS)
        waiting = SCHEMA.empty_table()
        with tempfile.NamedTemporaryFile(prefix="mmkd-") as file:
            with pq.ParquetWriter(file.name, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
                for batch in ordered:
                    waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(SCHEMA)])
                    if len(waiting) >= GROUP_ROWS:
                        writer.write_table(waiting.slice(0, GROUP_ROWS))
                        waiting = waiting.slice(GROUP_ROWS)
                writer.write_table(waiting)
            location.write(KEY_INDEX, Path(file.name))


def write_key_index(location: Location, key_hashes_N: npt.NDArray[np.uint64]) -> None:
    """Write the key index of a whole pair table."""
    with scratch_database() as database:
        index = KeyIndexWriter(database)
        index.add(key_hashes_N, 0)
        index.write(location)


class KeyIndex:
    """The key index of a store, read a row group at a time.

    It is opened for each look, because an append replaces it. On object storage an object that is replaced while it is
    read gives parts of both, so what was found then is looked up again.

    Args:
        info: of the store; an index of fewer rows is out of date and is not used.
    """

    def __init__(self, location: Location, info: StoreInfo) -> None:
        self._location, self._rows = location, info.rows
        self._key = KEY_INDEX if info.version > 1 else KEY_INDEX_1

    def _file(self) -> pq.ParquetFile | None:
        try:
            with self._reading():
                file = open_parquet(self._location, self._key, check_pages=True)
        except FileNotFoundError:
            return None
        return file if file.metadata.num_rows >= self._rows else None

    def _reading(self) -> AbstractContextManager[None]:
        hint = (
            "restore it from a copy; without one, move it out of the store: keys are then looked up in the pair table"
        )
        return reading(self._location.show(self._key), hint=hint)

    def rows_of(self, key: str) -> list[int] | None:
        """Return the rows whose key may be this one, nearly always one or none; None where there is no index."""
        while True:
            before = self._stamp()
            try:
                found = self._look_up(key)
            except (pa.ArrowException, OSError, StoreError):
                if self._stamp() == before:
                    raise
                continue
            if self._stamp() == before:
                return found

    def _stamp(self) -> str | None:
        found = self._location.stat(self._key)
        return found.stamp if found else None

    def _look_up(self, key: str) -> list[int] | None:
        file = self._file()
        if file is None:
            return None
        wanted = hash_text(key)
        found: list[int] = []
        for group in range(file.num_row_groups):
            bounds = file.metadata.row_group(group).column(0).statistics
            if bounds is None or bounds.min <= wanted <= bounds.max:
                with self._reading():
                    table = file.read_row_group(group, columns=["key_hash", "row"], use_threads=False)
                places = np.flatnonzero(table["key_hash"].to_numpy() == np.uint64(wanted))
                found += [int(row) for row in table["row"].to_numpy()[places] if row < self._rows]
        return found

    def tables(self) -> Iterator[pa.Table] | None:
        """Yield the index of the store's rows, of SCHEMA in the order of hashes; None where there is none."""
        file = self._file()
        if file is None:
            return None

        def group_of(number: int) -> pa.Table:
            with self._reading():
                table = file.read_row_group(number, use_threads=False)
            return table.filter(pc.less(table["row"], self._rows))

        return map(group_of, range(file.num_row_groups))
