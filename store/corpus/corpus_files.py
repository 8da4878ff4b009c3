"""Finds the files of a corpus by patterns of paths and URLs, and tells whether a file changed."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath

from store.errors import CorpusError, printable
from store.files import find_paths
from store.images.suffixes import image_suffixes
from store.io.fetching import fetch_all
from store.io.folder import Folder
from store.io.location import Location, is_url, locate, split_query, split_uri
from store.io.object_file import BLOCK_BYTES, open_object

from .braces import expand_braces
from .folder_files import content_sha256, depth_of, files_below, folder_stamp, is_hidden, matcher, suffix_blind

HTTP = ("http://", "https://")

STAMP_BYTES = 2**16
"""Bytes at the beginning and at the end of a remote file that are compared; a local file has a time."""


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus, or a folder of images with captions beside them, which counts as one file.

    Attributes:
        pattern: of the images below the folder, several with ``|`` between them, "" for all; None for a file.
    """

    folder: Location
    name: str
    pattern: str | None = None

    @property
    def uri(self) -> str:
        """Its absolute path or URL; that of a folder ends with a ``/`` or the pattern."""
        return self.folder.show(self.name) if self.pattern is None else f"{self.content.uri}/{self.pattern}"

    @property
    def content(self) -> Location:
        """The folder itself, of which this is the content."""
        return self.folder.below(self.name)

    @property
    def stem(self) -> str:
        """Its name without suffix."""
        return PurePosixPath(self.plain_name).stem if self.pattern is None else self.name

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
        if self.pattern is not None:
            return folder_stamp(self.content, self.pattern)
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
        if self.pattern is not None:
            return content_sha256(self.content, self.pattern)
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

    ``*`` stands for any part of a name, ``**`` for any folders, ``{000..099}`` and ``{a,b}`` for each of these. A
    pattern of a URL without ``*`` is taken as it is. A folder, and a pattern of images, are one corpus file.

    Raises:
        CorpusError: a pattern matches nothing, or a file of a range is not there.
    """
    files: list[CorpusFile] = []
    for pattern in patterns:
        if _is_remote(pattern):
            each = expand_braces(pattern)
            found = fetch_all(_remote, each)
        else:
            path = pattern.removeprefix("file://")
            each = [path] if os.path.lexists(path) else expand_braces(path)
            found = [_local(one) for one in each]
        missing = [one for one, matched in zip(each, found, strict=True) if not matched]
        if missing:
            raise _nothing(pattern, missing, len(each))
        files += chain.from_iterable(found)
    for file in files:
        if not file.uri.isascii() and file.uri != file.uri.encode("utf-8", "replace").decode():
            raise CorpusError(f"{printable(file.uri)}: its name is not UTF-8, which no table can hold; rename it")
    return _one_per_folder(files)


def _one_per_folder(files: Sequence[CorpusFile]) -> list[CorpusFile]:
    """Return files once each, and several patterns of one folder as one: what one leaves out another may take."""
    merged: dict[object, CorpusFile] = {}
    for file in files:
        place = file if file.pattern is None else (file.folder, file.name)
        before = merged.get(place)
        if before is None:
            merged[place] = file
        elif file.pattern is not None and before.pattern is not None:
            both = sorted({*before.pattern.split("|"), *file.pattern.split("|")})
            merged[place] = replace(before, pattern="" if "" in both else "|".join(both))
    return list(merged.values())


def _is_remote(pattern: str) -> bool:
    return is_url(pattern) and not pattern.startswith("file://")


def _nothing(pattern: str, missing: Sequence[str], count: int) -> CorpusError:
    if count > 1:
        return CorpusError(
            f"{len(missing)} of the {count} files that {pattern!r} names are not there; the first is {missing[0]}",
            hint="fetch what is missing, or correct the range",
        )
    folders = [] if _is_remote(pattern) else list(find_paths(Path(), missing[0], hidden=False))
    return CorpusError(
        f"no corpus file matches {pattern!r}" + (f", but {len(folders)} folders do" if folders else ""),
        hint=f"to read the images in these folders, end it with a /: {pattern}/"
        if folders
        else "python -m extract phantom --out DIR  # draws a corpus to try; or correct the path",
    )


def fixed_folder(pattern: str) -> str:
    """Return the folder that all files of a pattern lie below, as a path or URL."""
    path = pattern if is_url(pattern) else str(Path(pattern).absolute())
    found = re.search(r"[*?\[{]", path)
    return path[: found.start() if found else len(path)].rpartition("/")[0]


def _local(pattern: str) -> list[CorpusFile]:
    if not re.search(r"[*?\[]", pattern) or os.path.lexists(pattern):
        path = Path(pattern).absolute()
        if path.is_dir():
            return [_folder(str(path), "")]
        if os.path.lexists(path) and not path.is_file():
            raise CorpusError(f"{path}: is neither a file nor a folder, but a pipe, a device or a link to nothing")
        return [as_corpus_file(path)] if path.is_file() else []
    base, below = _split_pattern(str(Path(pattern).absolute()))
    if _names_images(below):
        return [_folder(base, below)] if _matches(locate(base), below) else []
    paths = ((str(path.absolute()), path) for path in find_paths(Path(), pattern, hidden=False))
    found = [path for name, path in sorted(paths) if _is_meant(name[len(base) :], below)]
    if pattern.endswith("/"):
        return [_folder(str(path.absolute()), "") for path in found if path.is_dir()]
    files = [path for path in found if not path.is_dir()]
    if any(_names_images(path.name) for path in files):
        return [_folder(base, below)]
    return [as_corpus_file(path) for path in files]


def _remote(pattern: str) -> list[CorpusFile]:
    # At HTTP a question mark begins the query.
    path, query = split_query(pattern) if pattern.startswith(HTTP) else (pattern, "")
    if re.search(r"[*?\[]", path) is None:
        if path.endswith("/"):
            return [_folder(path.rstrip("/"), "")] if locate(path).list() else []
        file = as_corpus_file(pattern)
        return [file] if file.folder.exists(file.name) else []
    base, below = _split_pattern(path)
    folder, wanted = locate(base), matcher(below)
    if _names_images(below):
        return [_folder(base, below)] if _matches(folder, below) else []
    keys = [key for key, _ in folder.list() if wanted.fullmatch(key) and _is_meant(key, below)]
    if any(_names_images(key) for key in keys):
        return [_folder(base, below)]
    return [as_corpus_file(folder.show(key) + query) for key in keys]


def _split_pattern(pattern: str) -> tuple[str, str]:
    """Return the folder before the first wild part of a pattern, and the rest."""
    wild = re.search(r"[*?\[]", pattern)
    base = pattern[: wild.start()].rpartition("/")[0] if wild else pattern
    return base or "/", pattern[len(base) :].removeprefix("/")


def _names_images(pattern: str) -> bool:
    return pattern.rpartition(".")[2].lower() in image_suffixes()


def _matches(folder: Location, pattern: str) -> bool:
    wanted = matcher(suffix_blind(pattern))
    if isinstance(folder, Folder) and not folder.path.is_dir():
        return False
    names = (file.name for file in files_below(folder, depth=depth_of(pattern)))
    return any(wanted.fullmatch(name) and _is_meant(name, pattern) for name in names)


def _is_meant(name: str, pattern: str) -> bool:
    """Return whether a name is no hidden one, or the pattern asks for hidden ones."""
    return not is_hidden(name) or is_hidden(pattern)


def _folder(path: str, pattern: str) -> CorpusFile:
    parent, _, name = path.rpartition("/")
    if not name or parent.endswith("/"):  # the root of a disk, or a bucket
        return CorpusFile(locate(path), "", pattern)
    return CorpusFile(locate(parent or "/"), name, pattern)


def qualifiers(files: Iterable[CorpusFile], root: str) -> dict[str, str]:
    """Return what goes before the keys of each file, by uri: its name; its path below the root if names repeat."""
    listed = list(files)
    stems = Counter(file.stem for file in listed)
    paths = {file.uri: relative_uri(file.uri, root) for file in listed}
    short = {uri: split_query(path)[0] if uri.startswith(HTTP) else path for uri, path in paths.items()}
    short = {uri: posixpath.splitext(path)[0] for uri, path in short.items()}
    repeated = Counter(short.values())
    return {
        file.uri: file.stem
        if stems[file.stem] == 1
        else short[file.uri]
        if repeated[short[file.uri]] == 1
        else paths[file.uri]
        for file in listed
    }


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
