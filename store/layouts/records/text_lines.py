"""Opens a text file of a corpus, compressed or not, and reads it line by line in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from store.corpus.corpus_files import CorpusFile
from store.errors import CorpusError
from store.io.object_file import open_object

LINE_LETTERS = 2**26
"""Letters of a line at most: a file without line ends would be read into memory whole."""

COMPRESSED: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}

BINARY = {"\x1f\udc8b": "a gzip file, which has to be named .gz,", "PK\x03\x04": "a zip file", "PAR1": "a Parquet file"}
"""Files that are often named as if they were text, by their first bytes."""

DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
"""Exceptions of Python's decompressors; that of bz2 is a bare OSError."""


def name_within(file: CorpusFile) -> str:
    """Return a file's name in lower letters, without the suffix of its compression."""
    name = file.plain_name.lower()
    return name.removesuffix(PurePosixPath(name).suffix) if _compression(file) else name


@contextlib.contextmanager
def open_content(file: CorpusFile) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed.

    Raises:
        CorpusError: it is not there.
    """
    opener = COMPRESSED.get(_compression(file))
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(open_object(file.folder, file.name))
        except FileNotFoundError as error:
            raise CorpusError(f"{file.uri}: no such corpus file") from error
        yield raw if opener is None else stack.enter_context(opener(raw))


def read_lines(file: CorpusFile, content: BinaryIO) -> Iterator[str]:
    r"""Yield the lines of a text in UTF-8 with their ends: ``\n``, ``\r\n`` or ``\r``; a byte order mark is left out.

    Raises:
        CorpusError: it is damaged, in another encoding, or one line is longer than the bound.
    """
    read = read_text(file, content)
    number = 0
    while line := read(LINE_LETTERS, number := number + 1, whole_lines=True):
        if len(line) == LINE_LETTERS and line[-1] not in "\r\n":
            raise CorpusError(f"{file.uri}:{number}: a line of more than {LINE_LETTERS} letters; is it a text file?")
        yield line


def read_text(file: CorpusFile, content: BinaryIO) -> Callable[..., str]:
    """Return a function that reads the next letters of a text in UTF-8.

    Its arguments are a number of letters, the number of the line, for messages, and whether to stop at its end.
    """
    # A byte that is no UTF-8 becomes a surrogate, so that the line it stands in can be told.
    text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def read(letters: int, number: int, *, whole_lines: bool = False) -> str:
        try:
            found = text.readline(letters) if whole_lines else text.read(letters)
        except DAMAGED as error:
            if _compression(file) == "":
                raise
            raise CorpusError(
                f"{file.uri}:{number}: cannot be decompressed: {error}",
                hint="if the download was cut short fetch the file again",
            ) from error
        if number == 1:
            _require_text(file, found)
        if not found.isascii():
            _require_utf_8(file, found, number)
        return found

    return read


def _compression(file: CorpusFile) -> str:
    suffix = PurePosixPath(file.plain_name.lower()).suffix
    return suffix if suffix in COMPRESSED else ""


def _require_text(file: CorpusFile, start: str) -> None:
    kind = next((kind for magic, kind in BINARY.items() if start.startswith(magic)), None)
    if kind is not None:
        raise CorpusError(f"{file.uri}: is {kind} by its first bytes, not text")
    if start[:2] in {"\udcff\udcfe"} or "\0" in start[:64]:
        seen = "zero bytes" if start[0].isascii() else "the byte order mark of UTF-16"
        raise CorpusError(
            f"{file.uri}:1: begins with {seen}; expected text in UTF-8",
            hint="if it is text in UTF-16, as some spreadsheets save it: iconv -f UTF-16 -t UTF-8 OLD > NEW",
        )


def _require_utf_8(file: CorpusFile, text: str, number: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = number + text.count("\n", 0, error.start)
        raise CorpusError(
            f"{file.uri}:{line}: byte 0x{ord(text[error.start]) - 0xDC00:02x} is not UTF-8",
            hint="convert the file from the encoding it was written in: iconv -f ENCODING -t UTF-8 OLD > NEW",
        ) from None
