"""Image folders and WebDataset tars."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from store.corpus.corpus_files import as_corpus_file
from store.corpus.image_source import ImageSource
from store.corpus.webdataset import IMAGE_SUFFIXES, read_tar

from .record import Record, StoredImage
from .rules import wild


def read_folders(root: Path, pattern: str) -> Iterator[Record]:
    """Yield the images that a pattern matches, by path; its parts in braces are the record's columns.

    Args:
        root: the data root.
        pattern: relative to it.
    """
    source, parts = ImageSource(root), path_parts(pattern)
    for path in sorted(root.glob(wild(pattern))):
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

    Args:
        path: the tar.
        file: what it is called below the data root.
        source: of the data root.

    Raises:
        CorpusError: it is cut short, damaged or compressed.
    """
    for pair in read_tar(as_corpus_file(path)):
        values = {"key": pair.key, **pair.record}
        if pair.image is None:
            yield Record(id=pair.key, file=file, values=values, problem="there is no image")
            continue
        image = StoredImage(source, file, pair.member)
        digest = hashlib.sha256(pair.image).hexdigest()
        yield Record(id=pair.key, file=file, values=values, image=image, sha256=digest)
