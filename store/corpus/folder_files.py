"""Lists the files of a folder that is read as one corpus file, and tells whether any of them changed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from store.errors import CorpusError, LocationError
from store.io.folder import Folder
from store.io.location import Location

SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
"""Names that operating systems leave in folders and archives, beside those that begin with a dot."""


def is_hidden(name: str) -> bool:
    """Return whether a path leads through a name that begins with a dot or that an operating system has left."""
    parts = name.split("/")
    return any((part[:1] == "." and part not in {".", ".."}) or part.lower() in SYSTEM_NAMES for part in parts)


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file below a folder.

    Attributes:
        name: its path below the folder; it ends with a ``/`` for a folder that is not looked into, because it is hidden
            or a link to one that is.
        nbytes: None where it is no regular file: such a folder, a pipe, a device, a link to nothing.
        time_ns: when it was written last; 0 on object storage.
    """

    name: str
    nbytes: int | None
    time_ns: int


def files_below(location: Location, *, depth: int | None = None) -> Iterator[FolderFile]:
    """Yield the files below a folder, folder by folder, in a fixed order.

    Args:
        depth: how many levels of names are looked at, all if left out.

    Raises:
        CorpusError: there is no such folder.
        LocationError: a folder cannot be read.
    """
    if not isinstance(location, Folder):
        for key, nbytes in location.list():
            if depth is None or key.count("/") < depth:
                yield FolderFile(key, nbytes, 0)
        return
    if not location.path.is_dir():
        raise CorpusError(f"{location.uri}: no such folder")
    waiting, seen = [""], set[tuple[int, int]]()
    while waiting:
        prefix = waiting.pop()
        if is_hidden(prefix):
            yield FolderFile(prefix, None, 0)
            continue
        folder = location.path / prefix
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link, perhaps to a folder above it
                yield FolderFile(prefix, None, 0)
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
            inside = [f"{prefix}{entry.name}/" for entry in entries if entry.is_dir()]
            for entry in entries:
                if entry.is_file():
                    status = entry.stat()
                    yield FolderFile(prefix + entry.name, status.st_size, status.st_mtime_ns)
                elif not entry.is_dir():
                    yield FolderFile(prefix + entry.name, None, 0)
        except OSError as error:
            raise LocationError(f"{folder}: {error.strerror or error}") from error
        if depth is None or prefix.count("/") < depth - 1:
            waiting += reversed(inside)


def depth_of(pattern: str) -> int | None:
    """Return how many levels of names a pattern looks at; None for all."""
    return None if not pattern or "**" in pattern else max(one.count("/") for one in pattern.split("|")) + 1


def folder_stamp(location: Location, pattern: str) -> tuple[int, int]:
    """Return the bytes of all files, and a number that changes with any file's name, size or time.

    Hidden files are left out: looking at a folder makes some.
    """
    digest, nbytes = hashlib.sha256(), 0
    for file in files_below(location, depth=depth_of(pattern)):
        if file.nbytes is not None and not is_hidden(file.name):
            digest.update(f"{file.name}\0{file.nbytes}\0{file.time_ns}\n".encode("utf-8", "surrogateescape"))
            nbytes += file.nbytes
    return nbytes, int.from_bytes(digest.digest()[:7], "big")


def content_sha256(location: Location, pattern: str) -> str:
    """Return the hexadecimal SHA-256 of the names and contents of all files."""
    digest = hashlib.sha256()
    for file in files_below(location, depth=depth_of(pattern)):
        if file.nbytes is not None and not is_hidden(file.name):
            content = hashlib.sha256(location.read(file.name)).hexdigest()
            digest.update(f"{file.name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@functools.cache
def matcher(pattern: str) -> re.Pattern[str]:
    """Translate patterns, with ``|`` between them, as glob reads them; fnmatch's ``*`` would match a ``/`` too."""
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]", "|": "|"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\||\[[^]]+\])", pattern)
    return re.compile("".join(translated.get(part) or _one_of(part) or re.escape(part) for part in parts))


def _one_of(part: str) -> str | None:
    if part[:1] != "[":
        return None
    return f"[^{part[2:]}" if part[1] == "!" else part


def suffix_blind(pattern: str) -> str:
    """Return patterns whose suffixes match in either case: cameras write ``.JPG``."""
    return re.sub(r"\.(\w+)(?=\||$)", lambda found: "." + "".join(map(_either_case, found[1])), pattern)


def _either_case(sign: str) -> str:
    return f"[{sign.lower()}{sign.upper()}]" if sign.isalpha() else sign
