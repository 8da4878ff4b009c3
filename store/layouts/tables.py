"""Reads tables of any kind: records with an image in a column, or with its path or URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import FieldReader, SourcePair
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import CorpusError

from .records.csv_records import read_csv
from .records.enrich import enriched, needed_columns
from .records.json_records import read_coco, read_json, read_json_lines
from .records.npz_records import read_npz
from .records.parquet_records import read_parquet
from .records.text_lines import name_within, open_content, read_lines
from .table_pairs import PairReader

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
    *,
    fields: FieldReader,
    account: Account,
    images: ImageSource,
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
        if not corpus.join:  # else the other table may have them
            fields.require(columns)
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
    added = enriched(records, file, corpus, account, read=_read_other)
    for pair in PairReader(file, fields, images).pairs(added):
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
        yield from read_parquet(file, choose, account)
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
