"""Reads the rows of a Parquet file a few at a time, with a bound on what they expand to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.corpus.corpus_files import CorpusFile
from store.errors import CorpusError
from store.io.object_file import disk_error, open_parquet

BATCH_ROWS = 64
"""Rows held as Python values at a time, with their images."""

BATCH_BYTES = 2**30
"""Bytes to which a batch may expand."""

LONG_VALUE_BYTES, EXPANSION = 2**16, 16
"""Values longer than this are images, of which a file does not hold the same one so many times."""


def read_parquet(file: CorpusFile, choose: Callable[[list[str]], list[str]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as dictionaries.

    Args:
        choose: is given the columns, and returns those that are needed.

    Raises:
        CorpusError: it cannot be read, or expands to more than is bearable.
    """
    try:
        parquet = open_parquet(file.folder, file.name)
        columns = choose(parquet.schema_arrow.names)
        for group in range(parquet.num_row_groups):
            yield from _group(file, parquet, group, columns)
    except FileNotFoundError as error:
        raise CorpusError(f"{file.uri}: no such corpus file") from error
    except (pa.ArrowException, OSError) as error:
        raise disk_error(error, file.uri) or CorpusError(
            f"{file.uri}: cannot be read as Parquet: {error}",
            hint="if the download was cut short fetch the file again; another format is named with format:",
        ) from error


def _group(file: CorpusFile, parquet: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    stored = _stored_bytes(file, parquet, group, columns)
    # A page may hold one long value that the rows only point to, so no row is longer than what is stored.
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, max(stored.values(), default=0))))
    seen_rows, seen = 0, dict.fromkeys(stored, 0)
    options = {"row_groups": [group], "columns": columns, "use_threads": False}
    for batch in parquet.iter_batches(batch_size=rows, **options):
        seen_rows += len(batch)
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            seen[name] = seen.get(name, 0) + array.nbytes
            repeated = seen[name] > max(BATCH_BYTES, EXPANSION * stored.get(name, 0))
            if array.nbytes > BATCH_BYTES or (repeated and seen[name] > LONG_VALUE_BYTES * seen_rows):
                raise CorpusError(
                    f"{file.uri}: column {name!r} expands from {stored.get(name, 0):,} to more than {seen[name]:,} "
                    f"bytes within {seen_rows} rows of row group {group}",
                    hint="no file of different images does; leave the file out, or write it with other images",
                )
        yield from batch.to_pylist()


def _stored_bytes(file: CorpusFile, parquet: pq.ParquetFile, group: int, columns: list[str]) -> dict[str, int]:
    """Return the bytes that a row group holds of each column, decompressed."""
    metadata = parquet.metadata.row_group(group)
    stored = dict.fromkeys(columns, 0)
    for number in range(metadata.num_columns):
        chunk = metadata.column(number)
        name = next((one for one in columns if f"{chunk.path_in_schema}.".startswith(f"{one}.")), None)
        if name is None:
            continue
        stored[name] += chunk.total_uncompressed_size
        if chunk.total_uncompressed_size > max(BATCH_BYTES, 1000 * chunk.total_compressed_size):
            raise CorpusError(
                f"{file.uri}: column {name!r} expands from {chunk.total_compressed_size:,} to "
                f"{chunk.total_uncompressed_size:,} bytes in row group {group}",
                hint="images do not compress that much; leave the file out",
            )
    return stored
