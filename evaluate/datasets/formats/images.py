"""Image folders and WebDataset tars."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from store.corpus.account import Account
from store.corpus.corpus_files import as_corpus_file, common_root, corpus_files, qualifiers
from store.corpus.fields import SourcePair
from store.corpus.folder_files import is_hidden
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.files import find_paths
from store.images.suffixes import image_suffixes
from store.layouts.source import Source
from store.layouts.webdataset import read_tar
from store.layouts.zip_archive import read_zip

from .record import Record, StoredImage
from .rules import any_suffix, wild

log = logging.getLogger(__name__)


def read_folders(root: Path, pattern: str) -> Iterator[Record]:
    """Yield the images that a pattern matches, by path; its parts in braces are the record's columns.

    A suffix is met in capitals too. Images that only their suffix keeps from the pattern are counted in a warning.
    """
    source, parts, others = ImageSource(root), path_parts(pattern), path_parts(any_suffix(pattern))
    hidden, left = 0, Counter[str]()
    for path in sorted(find_paths(root, wild(any_suffix(pattern)))):
        name = path.relative_to(root).as_posix()
        suffix = path.suffix.lower()
        found = parts.fullmatch(name) or parts.fullmatch(f"{name.removesuffix(path.suffix)}{suffix}")
        if suffix.lstrip(".") not in image_suffixes() or not (found or others.fullmatch(name)):
            continue
        if is_hidden(name):
            hidden += 1
        elif found:
            yield Record(id=name, file=name, values=found.groupdict(), image=StoredImage(source, name))
        else:
            left[suffix] += 1
    if hidden:
        log.warning("%s: hidden files, such as the ._NAME of macOS, are no images: %d", root / pattern, hidden)
    if left:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in left.most_common())
        log.warning("%s: images with other suffixes are left out: %s", root / pattern, listed)


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
    """Yield what a tar or zip holds: ``key``, ``json`` and the captions, such as ``txt``.

    Raises:
        CorpusError: it is cut short, damaged, or a tar that is compressed.
    """
    read = read_zip if path.suffix.lower() == ".zip" else read_tar
    for pair in read(as_corpus_file(path), Account()):
        yield _record(pair, pair.key, pair.record, file, StoredImage(source, file, pair.member))


def read_corpus(corpus: Corpus) -> Iterator[Record]:
    """Yield the pairs of a corpus: ``key``, columns, ``caption``, and a tar's ``.json`` or a table's row as ``json``.

    Raises:
        CorpusError: there is no such file, or one cannot be read.
    """
    files = corpus_files(corpus.files)
    root = common_root(files)
    source = ImageSource(root, allow=corpus.readable())
    prefixes = qualifiers(files, root) if corpus.qualify_keys else {}
    for file in files:
        opened = Source(file, corpus, Account(), source)
        for pair in opened.pairs(all_columns=True):
            key = f"{prefixes[file.uri]}/{pair.key}" if prefixes else pair.key
            values = {**pair.record, "caption": opened.fields.text(pair.record, "caption"), "json": pair.metadata}
            yield _record(pair, key, values, file.uri, StoredImage(source, pair.uri or "", pair.member))


def _record(pair: SourcePair, key: str, values: Mapping[str, Any], file: str, image: StoredImage) -> Record:
    record = Record(id=key, file=file, values={"key": key, **values})
    if pair.image is None:
        record.problem = "there is no image"
    else:
        record.image, record.sha256 = image, hashlib.sha256(pair.image).hexdigest()
    return record
