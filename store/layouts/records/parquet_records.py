"""Reads the rows of a Parquet file a few at a time, with a bound on what they expand to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.errors import CorpusError
from store.io.object_file import disk_error, open_parquet

BATCH_ROWS = 64
"""Rows held as Python values at a time, with their images."""

BATCH_BYTES = 2**30
"""Bytes to which a batch may expand."""

LONG_VALUE_BYTES, EXPANSION = 2**16, 16
"""Values longer than this are images, of which a file does not hold the same one so many times."""

COMPRESSION = 100
"""Images are compressed themselves and do not become so much smaller."""


def read_parquet(
    file: CorpusFile, choose: Callable[[list[str]], list[str]], account: Account
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as dictionaries.

    Args:
        choose: is given the columns, and returns those that are needed.

    Raises:
        CorpusError: it cannot be read, or expands to more than is bearable.
    """
    try:
        parquet = open_parquet(file.folder, file.name)
        names = parquet.schema_arrow.names
        repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if repeated is not None:
            raise CorpusError(f"{file.uri}: two columns are named {repeated!r}")
        columns = choose(names)
        for group in range(parquet.num_row_groups):
            for batch in _batches(file, parquet, group, columns):
                yield from _rows(file, batch, account)
    except FileNotFoundError as error:
        raise CorpusError(f"{file.uri}: no such corpus file") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file.uri}: a text inside a list or another value is not UTF-8: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise disk_error(error, file.uri) or CorpusError(
            f"{file.uri}: cannot be read as Parquet: {error}",
            hint="if the download was cut short fetch the file again; another format is named with format:",
        ) from error


def _batches(file: CorpusFile, parquet: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    stored, rows = _stored(file, parquet, group, columns)
    seen_rows, seen = 0, dict.fromkeys(stored, 0)
    for batch in parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False):
        seen_rows += len(batch)
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            nbytes = _expanded_bytes(array)
            seen[name] += nbytes
            repeated = seen[name] > max(BATCH_BYTES, EXPANSION * stored[name])
            if nbytes > 2 * BATCH_BYTES or (repeated and seen[name] > LONG_VALUE_BYTES * seen_rows):
                raise _too_much(file, name, group, stored[name], seen[name])
        yield batch


def _expanded_bytes(array: pa.Array) -> int:
    """Return the bytes of an array's values, those that a dictionary has once counted as often as they occur."""
    if pa.types.is_struct(array.type):
        return sum(map(_expanded_bytes, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _expanded_bytes(array.flatten())
    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    kind = array.type.value_type
    if not (pa.types.is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return int(array.nbytes)
    return int(pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0)


def _rows(file: CorpusFile, batch: pa.RecordBatch, account: Account) -> list[dict[str, Any]]:
    """Return the rows of a batch; a text that is not UTF-8, which Parquet allows, keeps what is.

    A time that Python cannot hold, beyond the year 9999 or in a zone it does not know, is kept as Arrow writes it.
    """
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        for number, field in enumerate(batch.schema):
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                found = batch[number].cast(pa.large_binary()).to_pylist()
                texts = [value and value.decode("utf-8", "replace") for value in found]
                wrong = sum("\ufffd" in (text or "") for text in texts)
                if wrong:
                    account.change("not UTF-8, kept as \ufffd", f"{file.uri}: column {field.name!r}", count=wrong)
                batch = batch.set_column(number, field.name, pa.array(texts, pa.large_string()))
        return list(batch.to_pylist())
    except (OverflowError, ValueError, KeyError):
        for number, field in enumerate(batch.schema):
            if pa.types.is_timestamp(field.type) or pa.types.is_date(field.type):
                plain = pa.timestamp(field.type.unit) if pa.types.is_timestamp(field.type) else field.type
                texts = batch[number].cast(plain).cast(pa.string())
                account.change("times that Python cannot hold, kept as texts", f"{file.uri}: column {field.name!r}")
                batch = batch.set_column(number, field.name, texts)
        return list(batch.to_pylist())


def _stored(file: CorpusFile, parquet: pq.ParquetFile, group: int, columns: list[str]) -> tuple[dict[str, int], int]:
    """Return the decompressed bytes of each column of a row group, and how many rows may be read at a time.

    The rows of a column with a dictionary may all point to the same long value, so that few bytes stand for many.
    """
    metadata = parquet.metadata.row_group(group)
    flat = not any(parquet.schema.column(number).max_repetition_level for number in range(metadata.num_columns))
    if flat and metadata.total_byte_size * BATCH_ROWS <= BATCH_BYTES:
        # Not looked at more closely than need be: Arrow ends the process where a chunk's statistics are damaged.
        return dict.fromkeys(columns, metadata.total_byte_size), BATCH_ROWS
    stored, rows = dict.fromkeys(columns, 0), BATCH_ROWS
    for number in range(metadata.num_columns):
        chunk = metadata.column(number)
        name = next((one for one in columns if f"{chunk.path_in_schema}.".startswith(f"{one}.")), None)
        if name is None or not chunk.num_values:
            continue
        compressed, nbytes = chunk.total_compressed_size, chunk.total_uncompressed_size
        stored[name] += nbytes
        longest = _longest_repeated(chunk)
        if nbytes > COMPRESSION * compressed and max(nbytes, longest * chunk.num_values) > BATCH_BYTES:
            raise _too_much(file, name, group, compressed, max(nbytes, longest * chunk.num_values))
        values_per_row = max(1, chunk.num_values // max(1, metadata.num_rows))
        row_bytes = max(nbytes // max(1, metadata.num_rows), longest * values_per_row, 1)
        rows = min(rows, max(1, BATCH_BYTES // row_bytes))
    return stored, rows


def _longest_repeated(chunk: pq.ColumnChunkMetaData) -> int:
    """Return a bound on the bytes of a value that a column chunk may repeat: those of its dictionary's page."""
    if not any("DICTIONARY" in encoding for encoding in chunk.encodings):
        return 0
    begins, ends = chunk.dictionary_page_offset or 0, chunk.data_page_offset
    page = ends - begins if 0 < begins < ends else chunk.total_compressed_size
    # Of the page only the compressed size is known; the other pages do not grow by compression.
    return max(0, int(chunk.total_uncompressed_size - (chunk.total_compressed_size - page)))


def _too_much(file: CorpusFile, name: str, group: int, stored: int, expanded: int) -> CorpusError:
    return CorpusError(
        f"{file.uri}: column {name!r}: {stored:,} bytes of row group {group} may expand to {expanded:,}",
        hint="different images do not; leave the file out of the corpus",
    )
