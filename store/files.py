"""Writes files so that a kill or a power cut leaves the old file or the new one, and computes digests of files."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

from .errors import LocationError
from .faults import reached

TEMPORARY_SUFFIX = ".tmp"
"""Files with this suffix are unfinished writes; the holder of the store's lock may delete them."""


_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EMLINK}
"""Error numbers of a file system without hard links."""


Data = bytes | Path | Callable[[BinaryIO], object]
"""The content of a new file: bytes, a file to copy, or a function that writes it piece by piece into the open file."""


def tidy(path: Path) -> Path:
    """Return a path as absolute and without ``..``; where a link stands before a ``..``, it stays as it is."""
    plain = os.path.normpath(path.absolute())
    same = ".." not in path.parts or os.path.realpath(plain) == os.path.realpath(path)
    return Path(plain) if same else path.absolute()


def write_atomic(path: Path, data: Data) -> None:
    """Replace a file whole: the content is written beside it, forced to disk and renamed over it."""
    with _temporary(path, data) as temporary:
        temporary.replace(path)
        reached("write.replaced")
    sync_folder(path.parent)


def create_atomic(path: Path, data: bytes) -> None:
    """Write a file that must not be there yet, whole: whoever sees its name sees all of it.

    A file system without hard links shows the name for a moment before it has the content; a kill in this moment leaves
    a file of no bytes.

    Raises:
        FileExistsError: it is there.
    """
    with _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A server may have made the link, and its answer was lost: then the two names are one file.
            with contextlib.suppress(FileNotFoundError):
                if temporary.samefile(path):
                    return
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            temporary.replace(path)
        reached("write.replaced")
    sync_folder(path.parent)


def move_file(source: Path, target: Path) -> None:
    """Rename a file over another, and force both folders to disk; between file systems it is copied first.

    Raises:
        FileNotFoundError: the source is not there.
    """
    make_folder(target.parent)
    # A relative link would point elsewhere at another place, so what it points to is copied.
    copied = source.is_symlink() or not _renamed(source, target)
    if copied:
        write_atomic(target, source.read_bytes())
    reached("move.done")
    if copied:
        source.unlink(missing_ok=True)
    sync_folder(target.parent)
    sync_folder(source.parent)


def _renamed(source: Path, target: Path) -> bool:
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


@contextlib.contextmanager
def _temporary(path: Path, data: Data) -> Iterator[Path]:
    """Write a file beside another and force it to disk; afterwards it is gone, if it was not renamed."""
    # The process id says who left a file; the token keeps threads apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with _open_new(temporary) as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file)
            elif callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reached("write.temporary")
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _open_new(path: Path) -> BinaryIO:
    for _ in range(3):
        make_folder(path.parent)
        # Who deletes the last file of a folder removes the folder.
        with contextlib.suppress(FileNotFoundError):
            return path.open("wb")
    return path.open("wb")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and force the entry of each to disk: a lost entry loses all files below it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(new)) from error
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary(folder: Path) -> int:
    """Delete what killed writers left in a folder tree and return how many files that were."""
    leftovers = [path for path in folder.rglob(f".*{TEMPORARY_SUFFIX}") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def find_paths(folder: Path, pattern: str, *, hidden: bool = True) -> list[Path]:
    """Return the files and folders that a pattern names, in no order, by the rules of `glob`.

    Unlike there, a folder that cannot be read is an error, and not empty; links are followed.

    Args:
        hidden: whether ``*`` stands for names that begin with a dot.

    Raises:
        LocationError: the disk fails or refuses.
    """
    found, parts = {folder}, PurePath(pattern).parts
    for number, part in enumerate(parts):
        if part == "**":
            found = {path for start in found for path in _below(start, files=number == len(parts) - 1, hidden=hidden)}
        elif any(sign in part for sign in "*?["):
            shown = hidden or part.startswith(".")
            found = {
                start / name
                for start in found
                for name, _ in _entries(start, hidden=shown)
                if fnmatch.fnmatchcase(name, part)
            }
        else:
            found = {start / part for start in found if _is_there(start / part)}
    return [*found]


def _below(start: Path, *, files: bool, hidden: bool) -> Iterator[Path]:
    folders = [start]
    while folders:
        folder = folders.pop()
        yield folder
        for name, is_folder in _entries(folder, hidden=hidden):
            if is_folder:
                folders.append(folder / name)
            elif files:
                yield folder / name


def _entries(folder: Path, *, hidden: bool) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries if hidden or not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LocationError(f"{folder}: {error.strerror or error}") from error


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise LocationError(f"{path}: {error.strerror or error}") from error
    return True


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
