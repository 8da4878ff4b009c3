"""The pair table: which pair is which row, where its image lies, what its caption says."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import CorpusError, StoreError, StoreNotFoundError
from .location import Location

MEMBER = pa.struct([("offset", pa.int64()), ("nbytes", pa.int64())])
"""Where an image lies inside a corpus shard; null where the file at the uri is the image itself or there is none."""

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


def check_keys(keys: Sequence[str]) -> None:
    """Refuse keys that occur twice.

    Raises:
        CorpusError: names how many there are and the first few.
    """
    counts = pc.value_counts(pa.array(keys, pa.string()))
    repeated = [entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1]
    if repeated:
        shown = ", ".join(repr(key) for key in repeated[:5])
        raise CorpusError(
            f"keys that occur more than once in the corpus: {len(repeated)}, for instance {shown}; "
            "a key names one pair",
            hint="set qualify_keys: true for the corpus in pipelines.yaml to put the shard's name before each key, "
            "or remove the repeated pairs",
        )


def write_pairs(location: Location, table: pa.Table, *, range_rows: int) -> None:
    """Write the pair table of a new store, with one Parquet row group per range.

    Args:
        location: the store's.
        table: of PAIR_SCHEMA, rows counted from 0.
        range_rows: rows of a range.
    """
    buffer = io.BytesIO()
    pq.write_table(table.cast(PAIR_SCHEMA), buffer, row_group_size=range_rows, compression="zstd")
    location.write("pairs/part-00000.parquet", buffer.getvalue())


class PairTable:
    """The pair table of a store, read in parts.

    Args:
        location: the store's.
        rows: how many rows it must have.
    """

    def __init__(self, location: Location, *, rows: int) -> None:
        keys = [key for key, _ in location.list("pairs") if key.endswith(".parquet")]
        if not keys:
            raise StoreNotFoundError(f"{location}: the pair table pairs/part-*.parquet is missing")
        try:
            self._files = [pq.ParquetFile(location.open(key)) for key in keys]
        except pa.ArrowInvalid as error:
            raise StoreError(f"{location}: the pair table cannot be read: {error}") from error
        self._groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.num_row_groups)
        ]
        self._ends = np.cumsum([rows_in_group for _, _, rows_in_group in self._groups])
        found = int(self._ends[-1]) if len(self._ends) else 0
        if found != rows:
            raise StoreError(f"{location}: the pair table has {found} rows, store.json says {rows}")

    def read(self, start: int, stop: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Return rows ``start`` to ``stop`` (exclusive) as an Arrow table of the given columns."""
        names = list(columns) if columns is not None else PAIR_SCHEMA.names
        if start >= stop:
            return PAIR_SCHEMA.empty_table().select(names)
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop - 1, side="right"))
        parts = [file.read_row_group(group, columns=names) for file, group, _ in self._groups[first : last + 1]]
        begin = int(self._ends[first - 1]) if first else 0
        return pa.concat_tables(parts).slice(start - begin, stop - start).select(names)

    def row_of(self, key: str) -> int:
        """Return the row of a key.

        Raises:
            StoreError: no pair has that key.
        """
        end = 0
        for file, group, rows_in_group in self._groups:
            found = pc.index(file.read_row_group(group, columns=["key"])["key"], key).as_py()
            if found >= 0:
                return int(end + found)
            end += rows_in_group
        raise StoreError(f"no pair has the key {key!r}")


def strings(table: pa.Table, column: str) -> npt.NDArray[np.object_]:
    """Return a string column as an object array, with None for null."""
    values: npt.NDArray[np.object_] = table[column].to_numpy(zero_copy_only=False)
    return values


def pairs_digest(table: pa.Table) -> str:
    """Return the digest of what features depend on in a range of pairs: keys, captions, image content.

    Where the images lie is left out on purpose: a corpus that moved is the same corpus.
    """
    digest = hashlib.sha256()
    for pair in table.select(["key", "caption", "image_sha256"]).to_pylist():
        digest.update(json.dumps([pair["key"], pair["caption"], pair["image_sha256"]]).encode())
        digest.update(b"\n")
    return digest.hexdigest()
