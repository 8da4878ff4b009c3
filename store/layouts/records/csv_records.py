"""Reads CSV strictly: what could be read in two ways is an error with its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence

from store.corpus.corpus_files import CorpusFile
from store.errors import CorpusError

VALUE_LETTERS = 2**24
"""Letters of one value at most: an unclosed quote would take in the rest of the file."""

RECORD_LETTERS = 2**26

NULLS = frozenset({"", "NaN", "nan", "<NA>"})
"""Values that are no value: an empty one, and those that pandas and numpy write for it."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

csv.field_size_limit(VALUE_LETTERS)


def read_csv(
    file: CorpusFile,
    lines: Iterator[str],
    *,
    separator: str,
    quotes: bool = True,
    header: Sequence[str] | None = None,
    choose: Callable[[list[str]], object],
) -> Iterator[dict[str, str | None]]:
    """Yield the records of a CSV; a value of `NULLS` is None.

    Args:
        lines: with their ends.
        quotes: whether quotes enclose values; if not, they are letters like others.
        header: names of the columns of a file without a header line.
        choose: is given the columns before any record is read, and may refuse them.

    Raises:
        CorpusError: a quote is out of place, a column has no name or occurs twice, or a record has too many or too few
            values.
    """
    source = _Lines(file, lines)
    if quotes:
        rows = _rows(file, source, csv.reader(source, delimiter=separator, strict=True), separator, quotes=True)
    else:
        plain = csv.reader(source, delimiter=separator, strict=True, quoting=csv.QUOTE_NONE)
        rows = _rows(file, source, plain, separator, quotes=False)
    names = list(header) if header else [name.strip() for name in next(rows, [])]
    _check_names(file, names, separator, given=header is not None)
    choose(names)
    for values in rows:
        if len(values) != len(names):
            expected = f"{len(names)} columns are named" if header else f"the header names {len(names)} columns"
            raise CorpusError(
                f"{file.uri}:{source.start}: {len(values)} values, {expected}",
                hint=f"a value that holds {separator!r} needs quotes around it" if len(values) > len(names) else None,
            )
        if header and values == names:
            raise CorpusError(f"{file.uri}:{source.start}: the first line of the file names the columns itself")
        yield {name: None if value in NULLS else value for name, value in zip(names, values, strict=True)}


class _Lines:
    """Lines, of which those of the present record are kept for messages."""

    def __init__(self, file: CorpusFile, lines: Iterator[str]) -> None:
        self._file, self._lines = file, lines
        self._next, self._letters = 1, 0
        self.start = 1
        self.kept: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._next += 1
        self._letters += len(line)
        self.kept.append(line)
        if self._letters > RECORD_LETTERS:
            raise CorpusError(f"{self._file.uri}:{self.start}: a record of more than {RECORD_LETTERS} letters")
        return line

    def begin(self) -> None:
        """Forget the lines of the last record."""
        self.start, self.kept, self._letters = self._next, [], 0

    def line_of(self, position: int) -> int:
        """Return the number of the line of a letter of the record."""
        for number, line in enumerate(self.kept):
            position -= len(line)
            if position < 0:
                return self.start + number
        return self.start + max(0, len(self.kept) - 1)


def _rows(
    file: CorpusFile, source: _Lines, reader: Iterator[list[str]], separator: str, *, quotes: bool
) -> Iterator[list[str]]:
    while True:
        source.begin()
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise (
                _misplaced(file, source, separator) or CorpusError(f"{file.uri}:{source.start}: not CSV: {error}")
            ) from error
        if values is None:
            return
        # Python takes a quote within a value without quotes as a letter, also when it is told to be strict.
        if quotes and any('"' in value for value in values) and (problem := _misplaced(file, source, separator)):
            raise problem
        if values:
            yield values


def _misplaced(file: CorpusFile, source: _Lines, separator: str) -> CorpusError | None:
    """Return the error about the first quote of the present record that is out of place, if one is."""
    text = "".join(source.kept)
    found = _first_misplaced(text, separator)
    if found is None:
        return None
    begins, ends = found
    line, shown = source.line_of(begins), text[begins : begins + 40].rstrip("\r\n")
    if ends is None:
        what = f"the quote that begins the value {shown!r} is never closed"
    elif text[begins] != '"':
        line, what = source.line_of(ends), f"a quote stands inside the value {shown!r}, which has none around it"
    else:
        what = (
            f"the quoted value {shown!r} begins here; the quote that ends it, on line {source.line_of(ends)}, "
            f"is followed by {text[ends + 1 : ends + 9]!r}, not by the separator"
        )
    return CorpusError(
        f"{file.uri}:{line}: {what}",
        hint='inside a value with quotes around it write each quote twice (""); '
        "where quotes are letters like others, say quotes: false in the corpus",
    )


def _first_misplaced(text: str, separator: str) -> tuple[int, int | None] | None:
    """Return where the first value with a misplaced quote begins, and that quote; None for one that is not closed."""
    end_of_value = re.compile(f"[{re.escape(separator)}\r\n]")
    position = 0
    while position < len(text):
        begins = position
        if text[begins] == '"':
            closing = text.find('"', begins + 1)
            while text[closing : closing + 2] == '""' and closing >= 0:
                closing = text.find('"', closing + 2)
            if closing < 0:
                return begins, None
            position = closing + 1
            if position < len(text) and not end_of_value.match(text, position):
                return begins, closing
        else:
            found = end_of_value.search(text, begins)
            position = found.start() if found else len(text)
            stray = text.find('"', begins, position)
            if stray >= 0:
                return begins, stray
        if text[position : position + 1] != separator:
            return None
        position += 1
    return None


def _check_names(file: CorpusFile, names: list[str], separator: str, *, given: bool) -> None:
    where = f"{file.uri}: header" if given else f"{file.uri}:1"
    if names and names[0].lower().startswith("sep=") and not given:
        raise CorpusError(
            f"{where}: the line {names[0] + (separator if len(names) > 1 else '')!r} tells Excel the separator, and "
            "names no column",
            hint="take the line out, and say separator in the corpus",
        )
    if len(names) == 1:
        others = [other for other in SEPARATORS if other != separator and other in names[0]]
        if others:
            raise CorpusError(
                f"{where}: the first line has no {separator!r}, but {SEPARATORS[others[0]]}: {names[0][:80]!r}",
                hint=f'if they separate the columns, say separator: "{_escaped(others[0])}" in the corpus',
            )
    for position, name in enumerate(names):
        # pandas writes its index first, under no name.
        if not name and position:
            raise CorpusError(f"{where}: column {position + 1} has no name")
        if name in names[:position]:
            raise CorpusError(f"{where}: columns {names.index(name) + 1} and {position + 1} are both named {name!r}")


def _escaped(separator: str) -> str:
    return separator.replace("\t", "\\t")
