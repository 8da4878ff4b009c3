"""Finds the row of a key without reading the pair table: a file of the sorted hashes of all keys."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import StoreError
from store.io.location import Location
from store.io.object_file import open_parquet

from .records import StoreInfo

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


def write_key_index(
    location: Location, key_hashes_N: npt.NDArray[np.uint64], *, difference_hashes: pa.Array | None = None
) -> None:
    """Write the key index of a whole pair table.

    Args:
        difference_hashes: of the images, by row, where a rule compares them with pairs that are appended later.
    """
    order_N = np.argsort(key_hashes_N, kind="stable")
    if difference_hashes is None:
        difference_hashes = pa.nulls(len(key_hashes_N), pa.uint64())
    table = pa.Table.from_arrays(
        [
            pa.array(key_hashes_N[order_N]),
            pa.array(order_N.astype(np.int64)),
            difference_hashes.take(pa.array(order_N)),
        ],
        schema=SCHEMA,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=GROUP_ROWS, compression="zstd")
    location.write(KEY_INDEX, buffer.getvalue())


class KeyIndex:
    """The key index of a store, read a row group at a time.

    It is opened for each look, because an append replaces it: on object storage an object that is replaced while it is
    open would give parts of both.

    Args:
        info: of the store; an index of fewer rows is out of date and is not used.
    """

    def __init__(self, location: Location, info: StoreInfo) -> None:
        self._location, self._rows = location, info.rows
        self._key = KEY_INDEX if info.version > 1 else KEY_INDEX_1

    def _file(self) -> pq.ParquetFile | None:
        try:
            file = open_parquet(self._location, self._key)
        except FileNotFoundError:
            return None
        except pa.ArrowInvalid as error:
            raise StoreError(f"{self._location.show(self._key)}: cannot be read: {error}") from error
        return file if file.metadata.num_rows >= self._rows else None

    def rows_of(self, key: str) -> list[int] | None:
        """Return the rows whose key may be this one, nearly always one or none; None where there is no index."""
        file = self._file()
        if file is None:
            return None
        wanted = hash_text(key)
        found: list[int] = []
        for group in range(file.num_row_groups):
            bounds = file.metadata.row_group(group).column(0).statistics
            if bounds is None or bounds.min <= wanted <= bounds.max:
                table = file.read_row_group(group, columns=["key_hash", "row"], use_threads=False)
                places = np.flatnonzero(table["key_hash"].to_numpy() == np.uint64(wanted))
                found += [int(row) for row in table["row"].to_numpy()[places] if row < self._rows]
        return found

    def read(self) -> pa.Table | None:
        """Return the whole index in the order of rows, None where there is none."""
        file = self._file()
        if file is None:
            return None
        table = file.read(use_threads=False)
        ordered = table.take(pa.array(np.argsort(table["row"].to_numpy())))
        return ordered.slice(0, self._rows)
