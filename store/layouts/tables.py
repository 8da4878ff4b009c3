"""Reads tables of any kind: records with an image in a column, or with its path or URL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile, resolve_uri
from store.corpus.fields import FILE_NAMES, FieldReader, SourcePair
from store.corpus.section import Corpus
from store.errors import CorpusError, LocationError
from store.io.location import locate, split_uri

from .csv_records import read_csv
from .enrich import enriched, needed_columns
from .json_records import parse_json, read_coco, read_json, read_json_lines
from .npz_records import PlacedImage, read_npz
from .parquet_records import read_parquet
from .text_lines import name_within, open_content, read_lines

FETCH_THREADS = 8
"""Images fetched at once: they are small, and a server's answer takes longer than the transfer."""

FETCH_AHEAD = 64
"""Records in memory at once."""

TableFormat: TypeAlias = Literal["parquet", "csv", "jsonl", "json", "coco", "npz"]

TABLE_SUFFIXES: dict[str, TableFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".npz": "npz",
}
"""Kinds by the end of a name, before the suffix of a compression."""


def read_table(
    file: CorpusFile,
    kind: TableFormat,
    corpus: Corpus,
    fields: FieldReader,
    account: Account,
    *,
    all_columns: bool = False,
) -> Iterator[SourcePair]:
    """Yield the pairs of a table in the order of its rows.

    Args:
        corpus: how its files are written, and what is added to their records.
        all_columns: of Parquet, read the columns that no field names too.

    Raises:
        CorpusError: it cannot be read, or lacks a column.
    """
    needed = fields.names() | needed_columns(corpus)

    def choose(columns: list[str]) -> list[str]:
        absent = [name for name in (*corpus.lists, *corpus.names) if name not in {*columns, *FILE_NAMES}]
        if not corpus.join:  # else the other table may have them
            fields.require(columns)
            if absent:
                raise CorpusError(
                    f"{file.uri}: lists or names: there is no column {absent[0]!r}; there are {', '.join(columns)}"
                )
            for name in ("image", "caption"):
                if not fields.has_candidate(name, columns):
                    raise _no_column(file, kind, name, columns, given=corpus.header is not None)
        return columns if all_columns else [name for name in columns if name in needed]

    records = read_records(
        file,
        kind,
        separator=corpus.separator,
        quotes=corpus.quotes,
        header=corpus.header,
        paths=[corpus.records] if isinstance(corpus.records, str) else corpus.records,
        choose=choose,
        account=account,
    )
    for pair in _pairs(file, fields, enriched(records, file, corpus, account, read=_read_other)):
        account.members += 1
        yield pair


def read_records(
    file: CorpusFile,
    kind: TableFormat,
    *,
    separator: str | None = None,
    quotes: bool = True,
    header: Sequence[str] | None = None,
    paths: Sequence[str] = (),
    choose: Callable[[list[str]], list[str]] = lambda columns: columns,
    account: Account | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the records of a table as they are, whether or not they have images and captions.

    The first line of a CSV is its header; in a ``.tsv`` tabs separate the values. JSON lines are one object per line.

    Args:
        separator: of the values of a CSV, if its name does not tell.
        quotes: whether quotes enclose values of a CSV.
        header: names of the columns of a CSV without a header line.
        paths: where in a JSON document its records are.
        choose: is given the columns of a Parquet or CSV file before any row is read; may refuse them, and returns
            those of a Parquet file that are needed.
        account: counts records that are passed over.

    Raises:
        CorpusError: it cannot be read.
    """
    account = account or Account()
    if kind == "parquet":
        yield from read_parquet(file, choose)
        return
    if kind == "npz":
        yield from read_npz(file)
        return
    with open_content(file) as content:
        if kind == "jsonl":
            yield from read_json_lines(file, content, account)
        elif kind == "json":
            yield from read_json(file, content, paths)
        elif kind == "coco":
            yield from read_coco(file, content, account)
        else:
            tabs = name_within(file).endswith((".tsv", ".tab"))
            separator = separator or ("\t" if tabs else ",")
            lines = read_lines(file, content)
            yield from read_csv(file, lines, separator=separator, quotes=quotes, header=header, choose=choose)


def _read_other(file: CorpusFile) -> Iterator[dict[str, Any]]:
    """Read a table that is joined to another."""
    name = name_within(file)
    kind = next((kind for suffix, kind in TABLE_SUFFIXES.items() if name.endswith(suffix)), None)
    if kind is None:
        raise CorpusError(f"{file.uri}: join: its name does not say what it is; expected {', '.join(TABLE_SUFFIXES)}")
    return read_records(file, kind)


def _no_column(file: CorpusFile, kind: TableFormat, name: str, columns: list[str], *, given: bool) -> CorpusError:
    hint = f"name it in the corpus of pipelines.yaml, as in fields: {{{name}: COLUMN}}"
    if kind == "csv" and not given:
        hint += "; if the file has no header line, name all its columns with header: [COLUMN, ...]"
    return CorpusError(
        f"{file.uri}: no column of {name}s was found; there are {', '.join(columns) or 'no columns'}", hint=hint
    )


def _pairs(file: CorpusFile, fields: FieldReader, records: Iterator[dict[str, Any]]) -> Iterator[SourcePair]:
    """Yield the pairs of records in order; images are fetched on threads, a few records ahead."""
    waiting: deque[Future[list[SourcePair]]] = deque()
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        for number, record in enumerate(records):
            waiting.append(pool.submit(_pairs_of, file, fields, number, record))
            if len(waiting) >= FETCH_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _pairs_of(file: CorpusFile, fields: FieldReader, number: int, record: dict[str, Any]) -> list[SourcePair]:
    """Return the pair of a record; several where images and captions are lists of the same length."""
    key = fields.text(record, "key")
    key = key if key is not None else f"{file.stem}-{number:08d}"
    images, captions = _list_at(fields, record, "image"), _list_at(fields, record, "caption")
    if images and captions and len(images[1]) == len(captions[1]) > 1:
        pairs = []
        for position, (image, caption) in enumerate(zip(images[1], captions[1], strict=True)):
            pair = SourcePair(key=f"{key}#{position + 1}", record={**record, captions[0]: caption})
            _add_image(pair, file, number, f"{images[0]}.{position}", image)
            pairs.append(pair)
        return pairs
    pair = SourcePair(key=key, record=record)
    _add_files(pair, file, fields)
    path, _ = fields.find(pair.record, "image") or ("", None)
    if path == "":
        _add_image(pair, file, number, path, fields.text(pair.record, "image"))
        return [pair]
    found = list(_placed(pair.record, path.split(".")))
    _add_image(pair, file, number, *(found[0] if found else (path, None)))
    pair.passed += [("second image of a list", place) for place, _ in found[1:]]
    return [pair]


def _list_at(fields: FieldReader, record: dict[str, Any], name: str) -> tuple[str, list[Any]] | None:
    """Return the column of a field and its list, if the column is a list."""
    path, _ = fields.find(record, name) or ("", None)
    found = record.get(path)
    return (path, found) if isinstance(found, list) else None


def _placed(node: Any, path: Sequence[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values at a path with the place of each, in which lists have positions: ``images.1``."""
    before = f"{place}." if place else ""
    if isinstance(node, list) and not (path and path[0].isdecimal()):
        for position, item in enumerate(node):
            yield from _placed(item, path, f"{before}{position}")
    elif not path:
        if node is not None:
            yield place, node
    elif isinstance(node, dict):
        taken = len(path) if ".".join(path) in node else 1
        name = ".".join(path[:taken])
        if name in node:
            yield from _placed(node[name], path[taken:], before + name)
    elif isinstance(node, list) and int(path[0]) < len(node):
        yield from _placed(node[int(path[0])], path[1:], before + path[0])


def _add_files(pair: SourcePair, file: CorpusFile, fields: FieldReader) -> None:
    """Add what lies in files of its own that the record names."""
    for field, name, read in (("json_file", "json", parse_json), ("text_file", "txt", _decoded)):
        path = fields.text(pair.record, field)
        if path is None:
            continue
        try:
            pair.record = {**pair.record, name: read(_fetch(file, path)[1])}
        except (FileNotFoundError, ValueError) as error:
            pair.passed.append((f"no file of {field}", f"{path}: {error}"))


def _decoded(content: bytes) -> str:
    return content.decode("utf-8-sig")


def _add_image(pair: SourcePair, file: CorpusFile, number: int, path: str, value: Any) -> None:
    if isinstance(value, PlacedImage):
        pair.uri, pair.image, pair.member = file.uri, value.data, {"column": value.column, "row": value.row}
        return
    if isinstance(value, dict) and value.get("bytes") is not None:
        path, value = f"{path}.bytes", value["bytes"]
    elif isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, bytes):
        pair.uri, pair.image, pair.member = file.uri, value, {"column": path, "row": number}
    elif isinstance(value, str) and value:
        try:
            pair.uri, pair.image = _fetch(file, value)
        except FileNotFoundError:
            pair.passed.append(("no image at the path", resolve_uri(value, file.folder.uri)))
    elif value is None or value == "":
        pair.passed.append(("no image in the record", ""))
    else:
        pair.passed.append(("neither image bytes nor a path", path))


def _fetch(file: CorpusFile, path: str) -> tuple[str, bytes]:
    """Return the path or URL of a file named relative to a corpus file, and its content."""
    uri = resolve_uri(path, file.folder.uri)
    try:
        folder, name = split_uri(uri)
    except LocationError as error:
        raise FileNotFoundError(uri) from error
    return uri, locate(folder).read(name)
