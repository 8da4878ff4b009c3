"""An object of a location as a seekable file, so that no reader of a format needs the whole object in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import CorruptChunkError, LocationError, StoreError

from .folder import Folder
from .location import Location

BLOCK_BYTES = 8 * 2**20
"""Bytes that `open_object` reads at a time: enough that most of a request's time is transfer."""

HANDLES_HINT = "nothing was changed; if too many files are open, raise the limit (ulimit -n), then run it again"
"""Hint of an error of the disk or of this process's limits, which says nothing about what is stored."""


def disk_error(error: BaseException, place: str) -> LocationError | None:
    """Return the error for a disk or a limit of this process; None if what is stored is wrong or not there."""
    if isinstance(error, LocationError):
        return error
    if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
        return LocationError(f"{place}: {error}", hint=HANDLES_HINT)
    return None


@contextlib.contextmanager
def reading(what: str, *, hint: str) -> Iterator[None]:
    """Name a Parquet object of the store where it cannot be read.

    Raises:
        CorruptChunkError: Arrow cannot read what is stored, or a page has another checksum.
        LocationError: the disk fails.
        FileNotFoundError: as it was.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StoreError | FileNotFoundError):
            raise
        raise disk_error(error, what) or CorruptChunkError(f"{what} cannot be read: {error}", hint=hint) from error


class Positioned(io.RawIOBase):
    """A read-only file of a known size; seeking reads nothing."""

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes, self._position = nbytes, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.nbytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


class ObjectFile(Positioned):
    """A read-only view of one object.

    Raises:
        FileNotFoundError: there is no such object.
    """

    def __init__(self, location: Location, key: str) -> None:
        nbytes = location.size(key)
        if nbytes is None:
            raise FileNotFoundError(location.show(key))
        super().__init__(nbytes)
        self._location, self._key = location, key

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the position on."""
        wanted = min(len(buffer), max(0, self.nbytes - self._position))
        data = self._location.read_part(self._key, self._position, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_object(location: Location, key: str) -> BinaryIO:
    """Open an object for reading from front to back in large blocks; seeking works too."""
    return cast("BinaryIO", io.BufferedReader(ObjectFile(location, key), BLOCK_BYTES))


def open_parquet(
    location: Location,
    key: str,
    *,
    in_blocks: bool = False,
    read_dictionary: Sequence[str] = (),
    check_pages: bool = False,
) -> pq.ParquetFile:
    """Open a Parquet object, of which then only what is asked for is read.

    In a folder Arrow reads the file itself. Elsewhere it reads through Python; then read it with ``use_threads=False``.
    If a thread of Arrow releases a Python object while the program ends, the program aborts ("terminate called without
    an active exception"). For the same reason Arrow gets bytes as ``pyarrow.BufferReader``, never as ``io.BytesIO``.

    Args:
        in_blocks: read large blocks from an object storage, so that neighbouring columns cost one request; else no byte
            more than is asked for.
        read_dictionary: columns that are read as dictionaries of their distinct values.
        check_pages: compare pages with their checksums, where they have any.

    Raises:
        FileNotFoundError: there is no such object.
        pyarrow.ArrowInvalid: it is no Parquet file.
    """
    how: dict[str, Any] = {"read_dictionary": [*read_dictionary], "page_checksum_verification": check_pages}
    if isinstance(location, Folder):
        return pq.ParquetFile(location.path / key, **how)
    source = pa.PythonFile(open_object(location, key) if in_blocks else ObjectFile(location, key), mode="r")
    return pq.ParquetFile(source, pre_buffer=False, **how)
