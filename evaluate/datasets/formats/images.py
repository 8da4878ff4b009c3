"""Image folders and WebDataset tars."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from store.corpus.account import Account
from store.corpus.corpus_files import as_corpus_file, common_root, corpus_files
from store.corpus.fields import SourcePair
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.files import find_paths
from store.layouts.source import Source
from store.layouts.webdataset import IMAGE_SUFFIXES, read_tar

from .record import Record, StoredImage
from .rules import wild


def read_folders(root: Path, pattern: str) -> Iterator[Record]:
    """Yield the images that a pattern matches, by path; its parts in braces are the record's columns."""
    source, parts = ImageSource(root), path_parts(pattern)
    for path in sorted(find_paths(root, wild(pattern))):
        name = path.relative_to(root).as_posix()
        found = parts.fullmatch(name)
        if found and path.suffix.lower().lstrip(".") in IMAGE_SUFFIXES:
            yield Record(id=name, file=name, values=found.groupdict(), image=StoredImage(source, name))


def path_parts(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression: a part in braces is a group, and what comes twice must be the same."""
    out, seen = "", set()
    for piece in re.split(r"(\{\w+\}|\*\*/|\*|\?)", pattern):
        if piece.startswith("{"):
            name = piece[1:-1]
            out += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            out += {"**/": "(?:.*/)?", "*": "[^/]*?", "?": "[^/]"}.get(piece) or re.escape(piece)
    return re.compile(out)


def read_webdataset(path: Path, file: str, source: ImageSource) -> Iterator[Record]:
    """Yield what a tar holds: ``key``, ``txt`` and ``json``.

    Raises:
        CorpusError: it is cut short, damaged or compressed.
    """
    for pair in read_tar(as_corpus_file(path), Account()):
        yield _record(pair, pair.key, pair.record, file, StoredImage(source, file, pair.member))


def read_corpus(corpus: Corpus) -> Iterator[Record]:
    """Yield the pairs of a corpus: ``key``, the columns, and what a tar's ``.json`` or a table's row says as ``json``.

    Raises:
        CorpusError: there is no such file, or one cannot be read.
    """
    files = corpus_files(corpus.files)
    root = common_root(files)
    source = ImageSource(root, allow=corpus.readable())
    for file in files:
        for pair in Source(file, corpus, Account(), source).pairs(all_columns=True):
            key = f"{file.stem}/{pair.key}" if corpus.qualify_keys else pair.key
            values = {**pair.record, "json": pair.metadata}
            yield _record(pair, key, values, file.uri, StoredImage(source, pair.uri or "", pair.member))


def _record(pair: SourcePair, key: str, values: Mapping[str, Any], file: str, image: StoredImage) -> Record:
    record = Record(id=key, file=file, values={"key": key, **values})
    if pair.image is None:
        record.problem = "there is no image"
    else:
        record.image, record.sha256 = image, hashlib.sha256(pair.image).hexdigest()
    return record
