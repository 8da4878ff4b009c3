"""Reads Parquet, JSON lines and CSV: records with an image in a column, or with its path or URL."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile, resolve_uri
from store.corpus.fields import FieldReader, SourcePair, as_text
from store.corpus.image_source import ImageSource
from store.errors import CorpusError, LocationError, PairDecodeError
from store.io.location import require_no_credentials
from store.io.object_file import open_object, open_parquet

FETCH_THREADS = 8
"""Images fetched at once: they are small, and a server's answer takes longer than the transfer."""

FETCH_AHEAD = 64
"""Records in memory at once."""

PATH_LETTERS = 4096
"""Letters of an image's path or URL at most."""

PARQUET_BATCH_ROWS = 64
"""Rows of a Parquet file held as Python values at a time, with their images."""

TableFormat: TypeAlias = Literal["parquet", "csv", "jsonl"]

csv.field_size_limit(2**24)


def read_table(
    file: CorpusFile,
    kind: TableFormat,
    fields: FieldReader,
    account: Account,
    images: ImageSource,
    *,
    all_columns: bool = False,
) -> Iterator[SourcePair]:
    """Yield the pairs of a table in the order of its rows.

    Args:
        all_columns: of Parquet, read the columns that no field names too.

    Raises:
        CorpusError: it cannot be read, or lacks a column.
    """

    def choose(columns: list[str]) -> list[str]:
        fields.require(columns)
        for name in ("image", "caption"):
            if not fields.has_candidate(name, columns):
                raise CorpusError(
                    f"{file.uri}: no column of {name}s was found; there are {', '.join(columns) or 'no columns'}",
                    hint=f"name it in the corpus of pipelines.yaml, as in fields: {{{name}: COLUMN}}",
                )
        return columns if all_columns else [name for name in columns if name in fields.names()]

    for pair in _pairs(file, fields, images, read_records(file, kind, choose=choose)):
        account.members += 1
        yield pair


def read_records(
    file: CorpusFile,
    kind: TableFormat,
    *,
    header: Sequence[str] | None = None,
    choose: Callable[[list[str]], list[str]] = lambda columns: columns,
) -> Iterator[dict[str, Any]]:
    """Yield the records of a table as they are, whether or not they have images and captions.

    The first line of a CSV is its header, and an empty field is null; in a ``.tsv`` tabs separate the fields. JSON
    lines are one object per line.

    Args:
        header: names of the columns of a CSV without a header line.
        choose: is given the columns of a Parquet or CSV file before any row is read; may refuse them, and returns
            those of a Parquet file that are needed.

    Raises:
        CorpusError: it cannot be read.
    """
    if kind == "parquet":
        try:
            parquet = open_parquet(file.folder, file.name)
            columns = choose(parquet.schema_arrow.names)
            for batch in parquet.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns, use_threads=False):
                yield from batch.to_pylist()
        except FileNotFoundError as error:
            raise CorpusError(f"{file.uri}: no such corpus file") from error
        except pa.ArrowException as error:
            raise CorpusError(
                f"{file.uri}: cannot be read as Parquet: {error}",
                hint="if the download was cut short fetch the file again; another format is named with format:",
            ) from error
        return
    with _text(file) as lines:
        if kind == "jsonl":
            yield from _json_records(file, lines)
            return
        reader = csv.reader(lines, delimiter="\t" if file.plain_name.lower().endswith(".tsv") else ",")
        try:
            names = list(header) if header else next(reader, [])
            choose(names)
            yield from _csv_records(file, reader, names)
        except (csv.Error, UnicodeDecodeError) as error:
            raise CorpusError(f"{file.uri}:{reader.line_num}: not CSV in UTF-8: {error}") from error


def _csv_records(file: CorpusFile, reader: Any, header: list[str]) -> Iterator[dict[str, Any]]:
    for values in reader:
        if not values:
            continue
        if len(values) != len(header):
            raise CorpusError(
                f"{file.uri}:{reader.line_num}: {len(values)} values, the header names {len(header)} columns",
                hint="a comma inside a value needs quotes around it",
            )
        yield {name: value or None for name, value in zip(header, values, strict=True)}


def _json_records(file: CorpusFile, lines: io.TextIOWrapper) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            record = json.loads(line)
            if not isinstance(record, dict):
                raise CorpusError(f"{file.uri}:{number}: expected a JSON object on each line")
            yield record
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file.uri}:{number + 1}: not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise CorpusError(f"{file.uri}:{number}: not a line of JSON: {error}") from error


def _text(file: CorpusFile) -> io.TextIOWrapper:
    try:
        return io.TextIOWrapper(open_object(file.folder, file.name), encoding="utf-8-sig", newline="")
    except FileNotFoundError as error:
        raise CorpusError(f"{file.uri}: no such corpus file") from error


def _pairs(
    file: CorpusFile, fields: FieldReader, images: ImageSource, records: Iterator[dict[str, Any]]
) -> Iterator[SourcePair]:
    """Yield the pairs of records in order; images are fetched on threads, a few records ahead."""
    waiting: deque[Future[SourcePair]] = deque()
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        for number, record in enumerate(records):
            waiting.append(pool.submit(_pair, file, fields, images, number, record))
            if len(waiting) >= FETCH_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pair(
    file: CorpusFile, fields: FieldReader, images: ImageSource, number: int, record: dict[str, Any]
) -> SourcePair:
    key = fields.text(record, "key")
    pair = SourcePair(key=key if key is not None else f"{file.stem}-{number:08d}", record=record)
    sidecar = fields.text(record, "json_file")
    if sidecar is not None:
        try:
            pair.record = {**record, "json": json.loads(images.image(resolve_uri(sidecar, file.folder.uri)))}
        except PairDecodeError as error:
            pair.passed.append(("no JSON file", str(error)))
        except ValueError as error:
            pair.passed.append(("not JSON", f"{sidecar}: {error}"))
    _add_image(pair, file, fields, images, number)
    return pair


def _add_image(pair: SourcePair, file: CorpusFile, fields: FieldReader, images: ImageSource, number: int) -> None:
    found = fields.find(pair.record, "image")
    path, values = found if found is not None else ("", [])
    value = values[0] if values else None
    if isinstance(value, dict) and value.get("bytes") is not None:
        path, value = f"{path}.bytes", value["bytes"]
    elif isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, bytes):
        pair.uri, pair.image, pair.member = file.uri, value, {"column": path, "row": number}
    elif isinstance(value, str) and len(value) > PATH_LETTERS:
        pair.passed.append((f"image's path is longer than {PATH_LETTERS} letters", ""))
    elif isinstance(value, str) and value:
        value = as_text(value) or value
        # The row keeps the path: extraction looks again, and says the same of it, or finds what came meanwhile.
        try:
            require_no_credentials(value)
            pair.uri = resolve_uri(value, file.folder.uri)
            pair.image = images.image(pair.uri)
        except LocationError as error:
            pair.passed.append(("image's URL holds a credential", f"{error}; {error.hint}"))
        except PairDecodeError as error:
            pair.passed.append((error.why, f"{error}{f'; {error.hint}' if error.hint else ''}"))
    elif value is not None:
        pair.passed.append(("neither image bytes nor a path", f"{path}"))
