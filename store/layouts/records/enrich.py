"""Adds to the records of a table: columns of other tables, names for values, lists out of texts, the file's name."""

from __future__ import annotations

import ast
import fnmatch
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from store.config.template import is_template, parse_template
from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile, as_corpus_file, corpus_files, resolve_uri
from store.corpus.fields import FILE_NAMES, NAMES_SHOWN, as_name, as_text, joined_text, values_at
from store.corpus.section import Corpus, Join
from store.errors import CorpusError

from .json_records import parse_json
from .text_lines import name_within

LIST_LETTERS = 2**20
"""Letters of a list that is written as a text, at most."""

Values = dict[str, Any]
Records = Iterable[Values]


def needed_columns(corpus: Corpus) -> set[str]:
    """Return the columns that `enriched` reads, besides those that fields name."""
    return {*corpus.lists, *corpus.names, *(path.removesuffix("?") for path in _join_paths(corpus))}


def _join_paths(corpus: Corpus) -> list[str]:
    """Return the paths of a record by which it is joined, as written."""
    paths = [left for join in corpus.join for left in _keys_of(join).values()]
    return [hole for path in paths for hole in (parse_template(path).paths if is_template(path) else [path])]


def enriched(
    records: Records, file: CorpusFile, corpus: Corpus, account: Account, *, read: Callable[[CorpusFile], Records]
) -> Iterator[Values]:
    """Yield records with what the corpus says is to be added, in this order: file names, joins, lists, names.

    Args:
        read: reads a table to be joined.

    Raises:
        CorpusError: a table to be joined cannot be read or has a key twice, or no record has a column that
            is to be joined by or to get names or lists.
    """
    stem = PurePosixPath(file.plain_name[: len(name_within(file))]).stem
    file_names = dict(zip(FILE_NAMES, (PurePosixPath(file.folder.uri).name, stem), strict=True))
    joins = [_Joined(file, join, read) for join in corpus.join]
    unseen, first = {*corpus.lists, *corpus.names, *(p for p in _join_paths(corpus) if not p.endswith("?"))}, None
    for number, found in enumerate(records):
        record = {**found, **file_names}
        for joined in joins:
            joined.add_to(record, account, f"{file.uri}: record {number}")
        for joined in joins:  # null where nothing was found, so that no field is said to be in neither table
            record = {**joined.columns, **record}
        for column, form in corpus.lists.items():
            if isinstance(record.get(column), str):
                record[column] = _as_list(record[column], form, account, f"{file.uri}: record {number}: {column}")
        for column, names in corpus.names.items():
            if column in record:
                record[column] = _named(record[column], names, account, f"{file.uri}: record {number}: {column}")
        if unseen:
            first = first or record
            unseen = {path for path in unseen if not {path, path.partition(".")[0]} & record.keys()}
        yield record
    if unseen and first:
        raise CorpusError(
            f"{file.uri}: join, lists or names: no record has {min(unseen)!r}; there are "
            f"{', '.join([*first][:NAMES_SHOWN])}"
        )


def _as_list(text: str, form: str, account: Account, where: str) -> list[Any] | None:
    if form not in {"json", "python"}:
        return [part.strip() for part in text.split(form)]
    try:
        read = parse_json if form == "json" else ast.literal_eval
        found = read(text) if len(text) <= LIST_LETTERS else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, list | tuple):
        account.pass_over(f"a text that is no list as {form} writes it", f"{where}: {text[:60]}")
        return None
    return list(found)


def _named(value: Any, names: Mapping[str, str] | Sequence[str], account: Account, where: str) -> Any:
    if isinstance(value, list):
        if not isinstance(names, Mapping) and len(value) == len(names) > 1 and all(one in (0, 1) for one in value):
            return [name for name, holds in zip(names, value, strict=True) if holds]
        return [_named(one, names, account, where) for one in value]
    text = as_name(value)
    if text is None:
        return None
    if not isinstance(names, Mapping):
        names = {str(position): name for position, name in enumerate(names)}
    found = names.get(text) or next((names[key] for key in names if fnmatch.fnmatchcase(text, key)), None)
    if found is None:
        account.pass_over("a value that names does not list", f"{where}: {text}")
    return found


def _keys_of(join: Join) -> Mapping[str, str]:
    return {join.on: join.on} if isinstance(join.on, str) else join.on


class _Joined:
    """A second table in a temporary database, which is on disk if it is large, and gone afterwards.

    Of SQLite and not of DuckDB as elsewhere: it is asked for one record at a time, by key.
    """

    def __init__(self, file: CorpusFile, join: Join, read: Callable[[CorpusFile], Records]) -> None:
        self._keys = _keys_of(join)
        self._templates = {path: parse_template(path) for path in self._keys.values() if is_template(path)}
        self._name = join.file
        self.columns: dict[str, None] = {}
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE records (key TEXT, record TEXT)")
        pattern = resolve_uri(join.file, file.folder.uri)
        for table in corpus_files([pattern]) if "*" in join.file else [as_corpus_file(pattern)]:
            self._database.executemany("INSERT INTO records VALUES (?, ?)", self._entries(table, read(table)))
        try:
            self._database.execute("CREATE UNIQUE INDEX by_key ON records (key)")
        except sqlite3.IntegrityError:
            query = "SELECT key FROM records GROUP BY key HAVING count(*) > 1 ORDER BY min(rowid) LIMIT 1"
            values = self._database.execute(query).fetchone()[0].split("\0")
            shown = ", ".join(f"{column} {value}" for column, value in zip(self._keys, values, strict=True))
            raise CorpusError(
                f"{pattern}: join: several records have {shown}; expected each value of 'on' once"
            ) from None

    def _entries(self, table: CorpusFile, records: Records) -> Iterator[tuple[str, str]]:
        for record in records:
            missing = [column for column in self._keys if column not in record]
            if missing:
                raise CorpusError(
                    f"{table.uri}: join: there is no column {missing[0]!r}; there are "
                    f"{', '.join([*record][:NAMES_SHOWN])}"
                )
            self.columns.update(dict.fromkeys(record))
            values = [as_name(record[column]) for column in self._keys]
            if None not in values:
                yield _key(values), json.dumps(record, default=as_text)

    def add_to(self, record: Values, account: Account, where: str) -> None:
        """Add the columns that a record does not have yet."""
        texts = [self._text(record, path) for path in self._keys.values()]
        found = None
        if None not in texts:
            found = self._database.execute("SELECT record FROM records WHERE key = ?", [_key(texts)]).fetchone()
        if found is None:
            account.pass_over("no record of a joined table", f"{where}: {self._name}: {', '.join(map(str, texts))}")
            return
        for name, value in json.loads(found[0]).items():
            record.setdefault(name, value)

    def _text(self, record: Values, path: str) -> str | None:
        def text_at(hole: str) -> str | None:
            return joined_text(values_at(record, hole.removesuffix("?").split(".")))

        return self._templates[path].fill(text_at) if path in self._templates else text_at(path)


def _key(values: Sequence[str | None]) -> str:
    return "\0".join(map(str, values))
