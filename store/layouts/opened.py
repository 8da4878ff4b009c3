"""Opens an archive so that its headers cost few reads, and its bytes are fetched once wherever it lies."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from store.corpus.corpus_files import CorpusFile
from store.errors import CorpusError, LocationError
from store.io.folder import Folder
from store.io.object_file import BLOCK_BYTES, ObjectFile, Positioned, disk_error

LOCAL_BLOCK_BYTES = 2**20
"""Bytes of a local file that are read at once while members follow each other closely."""

JUMP_BYTES = 2**15
"""Bytes that are read at once after a jump over a large member."""

LARGE_MEMBER_BYTES = 2**20
"""Mean size of members from which on headers and images of a remote archive are fetched by ranges, one request each.

An archive of smaller members is fetched whole, once, to a temporary file: a request takes about as long as the transfer
of this many bytes.
"""

MEMORY_BYTES = BLOCK_BYTES
"""Largest remote archive that is held in memory in place of a temporary file."""


class Window(Positioned):
    """A read-only file that keeps what it read last, for readers that go from header to header."""

    def __init__(self, file: BinaryIO, nbytes: int, block_bytes: int) -> None:
        super().__init__(nbytes)
        self._file, self._block_bytes, self._start, self._data = file, block_bytes, 0, b""

    def expect(self, start: int, stop: int) -> None:
        """Read bytes that will be asked for in pieces, all at once."""
        if self._start > start or stop > self._start + len(self._data):
            self.seek(start)
            self.read(stop - start)

    def read(self, size: int = -1) -> bytes:
        """Return bytes from the position on."""
        rest = max(0, self.nbytes - self._position)
        size = rest if size < 0 else min(size, rest)
        begin = self._position - self._start
        if begin < 0 or begin + size > len(self._data):
            gap = self._position - self._start - len(self._data)
            near = -len(self._data) <= gap <= self._block_bytes // 8
            wanted = max(size, self._block_bytes if near else JUMP_BYTES)
            self._file.seek(self._position)
            self._start, self._data, begin = self._position, self._file.read(min(wanted, rest)), 0
        self._position += size
        return self._data[begin : begin + size]


@contextlib.contextmanager
def open_archive(source: CorpusFile, mean_bytes: Callable[[Window], float]) -> Iterator[Window]:
    """Open an archive for reading headers first and members after that.

    Args:
        mean_bytes: tells the mean size of its members from the first of them; asked of a remote one only.

    Raises:
        CorpusError: there is no such file.
        LocationError: the storage fails.
    """
    try:
        with _opened(source, mean_bytes) as window:
            yield window
    except FileNotFoundError as error:
        raise CorpusError(f"{source.uri}: no such corpus file") from error
    except OSError as error:
        raise disk_error(error, source.uri) or error from error


@contextlib.contextmanager
def _opened(source: CorpusFile, mean_bytes: Callable[[Window], float]) -> Iterator[Window]:
    remote = ObjectFile(source.folder, source.name)
    if isinstance(source.folder, Folder):
        with (source.folder.path / source.name).open("rb", buffering=0) as local:
            yield Window(cast("BinaryIO", local), remote.nbytes, LOCAL_BLOCK_BYTES)
        return
    window = Window(cast("BinaryIO", remote), remote.nbytes, BLOCK_BYTES)
    if remote.nbytes > MEMORY_BYTES and mean_bytes(window) >= LARGE_MEMBER_BYTES:
        yield Window(cast("BinaryIO", remote), remote.nbytes, JUMP_BYTES)
        return
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as copy:
        window.seek(0)
        while block := window.read(BLOCK_BYTES):
            try:
                copy.write(block)
            except OSError as error:
                raise LocationError(
                    f"{source.uri}: cannot be copied to {tempfile.gettempdir()}: {error.strerror}",
                    hint=f"set TMPDIR to a folder that has {remote.nbytes} free bytes for each process",
                ) from error
        yield Window(cast("BinaryIO", copy), remote.nbytes, LOCAL_BLOCK_BYTES)
