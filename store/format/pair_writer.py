"""Writes the pair table part by part; a part is never written again once store.json names it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store.io.location import Location

from .pairs import DIGESTED, PAIR_SCHEMA, PAIRS_METADATA, PART_NAME, PairTable, digest_lines, part_key
from .promote import Guard, unguarded

PART_ROWS = 131_072
"""Rows of a ``pairs/part-*.parquet`` (about 30 MB), which a writer holds."""

_FORMAT_1 = ("pairs/keys.parquet", "pairs/curation.json")
"""Objects of format 1 beside the parts; programs that take the folder as a table would read them with the parts."""

_MAGIC_BYTES = 4
"""Bytes before the first column chunk of a Parquet file."""


class PairWriter:
    """Writes rows as parts of bounded size, whose row groups never cross the border of a range.

    Nobody reads a part before store.json names it, so a part that a killed writer left is written over.

    Args:
        range_rows: R.
        part_rows: rows of a part, rounded down to whole ranges.
        after: the table that new rows follow; its parts stay as they are.
        guard: called before a part is written or deleted: another writer may have named it by then.

    Attributes:
        parts: rows of each part of the whole table, as store.json names them.
    """

    def __init__(
        self,
        location: Location,
        *,
        range_rows: int,
        part_rows: int = PART_ROWS,
        after: PairTable | None = None,
        guard: Guard = unguarded,
    ) -> None:
        self._location, self._range_rows, self._guard = location, range_rows, guard
        self._part_rows = range_rows * max(1, part_rows // range_rows)
        self.parts = [*after.parts] if after else []
        self._digest, begun = hashlib.sha256(), self.rows % range_rows
        if after and begun:
            self._digest.update(digest_lines(after.read(self.rows - begun, self.rows, DIGESTED)))
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    @property
    def rows(self) -> int:
        """Rows of the whole table as far as it is written."""
        return sum(self.parts)

    @property
    def _room(self) -> int:
        return self._part_rows - self.rows % self._range_rows

    def add(self, table: pa.Table) -> None:
        """Take rows, of PAIR_SCHEMA with or without ``row``, which is counted here."""
        self._waiting.append(table.select([name for name in PAIR_SCHEMA.names if name != "row"]))
        self._waiting_rows += table.num_rows
        while self._waiting_rows >= self._room:
            self._write(self._room)

    def end_part(self) -> None:
        """Write the rows that wait as a part, however few they are."""
        if self._waiting_rows:
            self._write(self._waiting_rows)

    def close(self) -> list[int]:
        """Write what is left, delete what killed writers left, and return the rows of each part of the whole table."""
        if self._waiting_rows or not self.parts:
            self._write(self._waiting_rows)
        named = {part_key(number) for number in range(len(self.parts))}
        there = {key for key, _ in self._location.list("pairs") if PART_NAME.fullmatch(key) or key in _FORMAT_1}
        self._guard()
        self._location.delete(sorted(there - named))
        return self.parts

    def _write(self, rows: int) -> None:
        whole = pa.concat_tables(self._waiting) if self._waiting else PAIR_SCHEMA.remove(0).empty_table()
        part, rest = whole.slice(0, rows), whole.slice(rows)
        numbers = pa.array(np.arange(self.rows, self.rows + rows, dtype=np.int64))
        part = part.add_column(0, PAIR_SCHEMA.field("row"), numbers).cast(PAIR_SCHEMA)
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, PAIR_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            digests = self._write_groups(writer, part)
            stated = {"data_bytes": sink.tell() - _MAGIC_BYTES, "digests": digests}
            writer.add_key_value_metadata({PAIRS_METADATA: json.dumps(stated)})
        self._guard()
        self._location.write(part_key(len(self.parts)), sink.getvalue().to_pybytes())
        self.parts.append(rows)
        self._waiting, self._waiting_rows = [rest] if rest.num_rows else [], rest.num_rows

    def _write_groups(self, writer: pq.ParquetWriter, part: pa.Table) -> list[tuple[int, int, str]]:
        """Write a row group per range; return range, row after the last and digest of each range's rows so far."""
        digests: list[tuple[int, int, str]] = []
        row, stop = self.rows, self.rows + part.num_rows
        while row < stop:
            range_id = row // self._range_rows
            end = min((range_id + 1) * self._range_rows, stop)
            group = part.slice(row - self.rows, end - row)
            writer.write_table(group, row_group_size=self._range_rows)
            self._digest.update(digest_lines(group))
            digests.append((range_id, end, self._digest.hexdigest()))
            if end % self._range_rows == 0:
                self._digest = hashlib.sha256()
            row = end
        return digests
