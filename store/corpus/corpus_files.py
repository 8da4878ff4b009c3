"""Finds the files of a corpus by patterns of paths and URLs, and tells whether a file changed."""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from store.errors import CorpusError
from store.files import find_paths
from store.io.folder import Folder
from store.io.location import Location, is_url, locate, split_query, split_uri
from store.io.object_file import BLOCK_BYTES, open_object

HTTP = ("http://", "https://")

STAMP_BYTES = 2**16
"""Bytes at the beginning and at the end of a remote file that are compared; a local file has a time."""


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus."""

    folder: Location
    name: str

    @property
    def uri(self) -> str:
        """Its absolute path or URL."""
        return self.folder.show(self.name)

    @property
    def stem(self) -> str:
        """Its name without suffix."""
        return PurePosixPath(self.plain_name).stem

    @property
    def plain_name(self) -> str:
        """Its name without the query of a URL."""
        return split_query(self.name)[0] if self.uri.startswith(HTTP) else self.name

    def stamp(self) -> tuple[int, int]:
        """Return its bytes, and a number that changes with its content.

        For a local file it is the time in nanoseconds; for a remote one a digest of its first and last bytes, because
        not every storage has versions.

        Raises:
            CorpusError: the file is not there.
        """
        if isinstance(self.folder, Folder):
            try:
                found = (self.folder.path / self.name).stat()
            except FileNotFoundError as error:
                raise CorpusError(f"{self.uri}: no such corpus file") from error
            return found.st_size, found.st_mtime_ns
        nbytes = self.folder.size(self.name)
        if nbytes is None:
            raise CorpusError(f"{self.uri}: no such corpus file")
        ends = self.folder.read_part(self.name, 0, min(nbytes, STAMP_BYTES))
        if nbytes > STAMP_BYTES:
            ends += self.folder.read_part(self.name, nbytes - STAMP_BYTES, STAMP_BYTES)
        return nbytes, int.from_bytes(hashlib.sha256(ends).digest()[:7], "big")

    def sha256(self) -> str:
        """Return the hexadecimal SHA-256 of its content, read block by block."""
        digest = hashlib.sha256()
        with open_object(self.folder, self.name) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


def as_corpus_file(path: str | os.PathLike[str]) -> CorpusFile:
    """Return the corpus file of a path or URL."""
    text = os.fspath(path)
    if not is_url(text):
        text = str(Path(text).absolute())
    folder, name = split_uri(text)
    return CorpusFile(locate(folder), name)


def corpus_files(patterns: Sequence[str]) -> list[CorpusFile]:
    """Return the files that the patterns name, in a fixed order.

    ``*`` stands for any part of a name, ``**`` for any folders. A pattern of a URL without ``*`` is taken as it is.

    Raises:
        CorpusError: a pattern matches nothing.
    """
    files: list[CorpusFile] = []
    for pattern in patterns:
        found = _remote(pattern) if is_url(pattern) and not pattern.startswith("file://") else _local(pattern)
        if not found:
            raise CorpusError(
                f"no corpus file matches {pattern!r}",
                hint="python -m extract phantom --out DIR draws a corpus to try; or correct the path",
            )
        files += found
    return list(dict.fromkeys(files))


def fixed_folder(pattern: str) -> str:
    """Return the folder that all files of a pattern lie below, as a path or URL."""
    path = pattern if is_url(pattern) else str(Path(pattern).absolute())
    found = re.search(r"[*?\[{]", path)
    return path[: found.start() if found else len(path)].rpartition("/")[0]


def _local(pattern: str) -> list[CorpusFile]:
    found = sorted(map(str, find_paths(Path(), pattern.removeprefix("file://"), hidden=False)))
    return [as_corpus_file(path) for path in found if not Path(path).is_dir()]


def _remote(pattern: str) -> list[CorpusFile]:
    # At HTTP a question mark begins the query.
    path, query = split_query(pattern) if pattern.startswith(HTTP) else (pattern, "")
    wild = re.search(r"[*?\[]", path)
    if wild is None:
        file = as_corpus_file(pattern)
        return [file] if file.folder.exists(file.name) else []
    base = path[: wild.start()].rpartition("/")[0]
    folder, matcher = locate(base), _matcher(path[len(base) + 1 :])
    return [as_corpus_file(folder.show(key) + query) for key, _ in folder.list() if matcher.fullmatch(key)]


@functools.cache
def _matcher(pattern: str) -> re.Pattern[str]:
    """Translate a pattern as glob reads it; fnmatch's ``*`` would match a ``/`` too."""
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    return re.compile("".join(translated.get(part) or (part if part[:1] == "[" else re.escape(part)) for part in parts))


def common_root(files: Sequence[CorpusFile]) -> str:
    """Return the folder that all files lie below, as a path or URL.

    Raises:
        CorpusError: they lie in several storages.
    """
    folders = [file.folder.uri.split("/") for file in files]
    shared = posixpath.commonprefix(folders)
    # "s3:", "" and the bucket are not folders.
    least = 3 if any(is_url(file.folder.uri) for file in files) else 1
    if len(shared) < least:
        shown = ", ".join(sorted({"/".join(parts[:3]) for parts in folders})[:3])
        raise CorpusError(
            f"the files of a corpus lie in several storages ({shown}); they must share one",
            hint="make them several corpora, each with its own store",
        )
    return "/".join(shared) or "/"


def relative_uri(uri: str, root: str) -> str:
    """Return a path or URL relative to a root, with ``..`` if need be; as it is where the storages differ."""
    if not is_url(uri) and not is_url(root):
        return posixpath.relpath(uri, root)
    path, query = split_query(uri) if uri.startswith(HTTP) else (uri, "")
    here, there = path.split("/"), root.split("/")
    if here[:3] != there[:3]:
        return uri
    return posixpath.relpath("/" + "/".join(here[3:]), "/" + "/".join(there[3:])) + query


def resolve_uri(uri: str, root: str) -> str:
    """Undo `relative_uri`."""
    if is_url(uri) or uri.startswith("/"):
        return uri
    if not is_url(root):
        return posixpath.normpath(posixpath.join(root, uri))
    storage, path = root.split("/")[:3], root.split("/")[3:]
    uri, query = split_query(uri) if root.startswith(HTTP) else (uri, "")
    return "/".join(storage) + posixpath.normpath(posixpath.join("/", *path, uri)) + query
