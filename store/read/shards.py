"""The store shards of one side of one teacher: finds them, and compares them with their receipts.

In a store of format 2 a shard's chunks lie in order from its first byte on, and the receipt has the CRC-32C of each. In
one of format 1 the shard's own index has to say that they lie so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt

from store.errors import LocationError
from store.format.arrays import array_names, encode_index, index_bytes, rows_in_order, shard_key
from store.format.records import Receipt, Side, Spec
from store.io.folder import stamp_of
from store.io.location import Location

from .units import CLOCKS_S, Unit, Units

log = logging.getLogger(__name__)

Verify: TypeAlias = Literal["never", "first", "always"]
"""Bytes are compared with the checksums of their receipt when they are first read, each time, or never."""

COLUMN_DTYPES: dict[str, np.dtype[Any]] = {"status": np.dtype(np.uint8), "similarity": np.dtype(np.float32)}

_told: set[str] = set()


@dataclass(frozen=True, slots=True)
class Found:
    """A shard where it lies now.

    Attributes:
        stamp: another object has another one.
        modified: seconds since the epoch.
    """

    key: str
    nbytes: int
    stamp: str
    modified: float


class Shards:
    """The shards of one side of one teacher. Safe for use from several threads."""

    def __init__(self, location: Location, spec: Spec, side: Side, *, units: Units[Receipt], verify: Verify) -> None:
        self._location, self._teacher, self._side = location, spec.teacher, side
        self._units, self._info, self.verify = units, units.info, verify
        self._place = array_names(spec).index(side)
        self.chunk_bytes = self._info.chunk_rows * spec.embed_dim * np.dtype(spec.stored_dtype).itemsize

    def chunks(self, unit: Unit) -> int:
        """Return how many chunks a unit's shard holds."""
        return -(-(unit.stop - unit.start) // self._info.chunk_rows)

    def crcs(self, unit: Unit) -> npt.NDArray[np.uint32]:
        """Return the CRC-32C of each chunk of a unit's shard; empty in format 1."""
        return unit.chunk_crcs(self._place, self.chunks(unit))

    def is_checked(self, unit: Unit) -> bool:
        """Return whether chunks of a unit are to be compared with checksums."""
        return self.verify != "never" and len(self.crcs(unit)) > 0

    @contextmanager
    def opened(self, unit: Unit) -> Iterator[tuple[int, Found]]:
        """Open a unit's shard in a folder, as a file descriptor.

        Raises:
            CorruptChunkError: it is not there.
            LocationError: the disk fails.
        """
        for key in self._keys(unit):
            try:
                descriptor = os.open(f"{self._location.uri}/{key}", os.O_RDONLY)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise LocationError(f"{self._location.show(key)}: {error.strerror or error}") from error
            break
        else:
            self._refuse(unit, self._key(unit), "is committed, but not there")
        try:
            status = os.fstat(descriptor)
            yield descriptor, Found(key, status.st_size, stamp_of(status), status.st_mtime)
        finally:
            os.close(descriptor)

    def found(self, unit: Unit) -> Found:
        """Return where a unit's shard lies.

        Raises:
            CorruptChunkError: it is not there.
            LocationError: the disk or the storage fails.
        """
        for key in self._keys(unit):
            stat = self._location.stat(key)
            if stat is not None:
                break
        else:
            self._refuse(unit, self._key(unit), "is committed, but not there")
        return Found(key, stat.nbytes, stat.stamp, stat.modified)

    def check(self, unit: Unit, found: Found, descriptor: int | None) -> None:
        """Compare a shard with its receipt, but for the bytes of its chunks.

        Args:
            descriptor: of the open file, if there is one.

        Raises:
            CorruptChunkError: it is not as it was committed.
        """
        if not unit.crcs and self.verify != "never" and self._location.uri not in _told:
            _told.add(self._location.uri)
            log.warning(
                "%s: receipts of store format 1 have no checksums, so that only sizes are checked; "
                "python -m store upgrade %s adds them",
                self._location,
                self._location,
            )
        expected, chunks = unit.nbytes[self._place], self.chunks(unit)
        if expected < 0:
            self._refuse(unit, found.key, "is not named by its receipt")
        if found.nbytes != expected:
            self._refuse(unit, found.key, f"has {found.nbytes} bytes, expected {expected}")
        begin, nbytes = expected - index_bytes(self._info), index_bytes(self._info)
        if begin < chunks * self.chunk_bytes:
            self._refuse(unit, found.key, f"has {expected} bytes, too few for {chunks} chunks and their index")
        if not len(self.crcs(unit)):
            index = (
                self._read(unit, found, begin, nbytes) if descriptor is None else os.pread(descriptor, nbytes, begin)
            )
            if index != encode_index(chunks, chunk_bytes=self.chunk_bytes, info=self._info):
                self._refuse(unit, found.key, f"its index does not say that {chunks} chunks lie in order")
        if not self.is_checked(unit) and found.modified >= unit.finished + CLOCKS_S:
            self._units.confirm(unit)

    def read_into(self, buffer: npt.NDArray[Any], unit: Unit, found: Found, offset: int) -> None:
        """Fill a buffer with the bytes of a shard from ``offset`` on.

        Raises:
            ObjectChangedError: another object lies there now.
            CorruptChunkError: it is not there.
            LocationError: the disk or the storage fails.
        """
        view = buffer.data.cast("B")
        data = self._read(unit, found, offset, len(view))
        if len(data) < len(view):
            self._refuse(
                unit, found.key, f"ends at byte {offset + len(data)}, expected {len(view)} bytes from {offset} on"
            )
        view[:] = data

    def check_chunks(self, unit: Unit, chunks: Sequence[int], shard: npt.NDArray[np.uint8], *, first: int = 0) -> None:
        """Compare some chunks of a shard with their checksums, where it has any.

        Args:
            shard: its bytes from chunk ``first`` on, which cannot be written to.

        Raises:
            CorruptChunkError: one is damaged.
        """
        expected, size = self.crcs(unit).tolist(), self.chunk_bytes
        for chunk in chunks if expected else ():
            found = google_crc32c.value(shard[(chunk - first) * size : (chunk - first + 1) * size])
            if found != expected[chunk]:
                what = f"chunk {chunk} is damaged: its CRC-32C is {found:08x}, the receipt says {expected[chunk]:08x}"
                self._refuse(unit, self._key(unit), what)

    def _read(self, unit: Unit, found: Found, offset: int, nbytes: int) -> bytes:
        try:
            return self._location.read_part(found.key, offset, nbytes, stamp=found.stamp)
        except FileNotFoundError:
            self._refuse(unit, found.key, "is committed, but not there")

    def _keys(self, unit: Unit) -> list[str]:
        return [start + self._key(unit) for start in unit.folders]

    def _key(self, unit: Unit) -> str:
        return shard_key(self._teacher, self._side, unit.range)

    def _refuse(self, unit: Unit, key: str, what: str) -> NoReturn:
        self._units.settle(unit, key, what)


def read_column(
    location: Location,
    spec: Spec,
    units: Units[Receipt],
    unit: Unit,
    name: Literal["status", "similarity"],
    *,
    verify: Verify,
) -> npt.NDArray[Any]:
    """Return a unit's values of one number per row, (stop - start,).

    Raises:
        UnitChangedError: the unit was made anew meanwhile.
        CorruptChunkError: they are not there, or not as they were committed.
    """
    place, key, data = array_names(spec).index(name), shard_key(spec.teacher, name, unit.range), None
    for start in unit.folders:
        try:
            data = location.read(start + key)
        except FileNotFoundError:
            continue
        break
    if data is None:
        units.settle(unit, key, "is committed, but not there")
    if unit.nbytes[place] < 0:
        units.settle(unit, key, "is not named by its receipt")
    if len(data) != unit.nbytes[place]:
        units.settle(unit, key, f"has {len(data)} bytes, expected {unit.nbytes[place]}")
    expected = unit.crc(place)
    if expected is not None and verify != "never" and google_crc32c.value(data) != expected:
        units.settle(unit, key, f"is damaged: its CRC-32C is not {expected:08x}")
    values = rows_in_order(data, dtype=COLUMN_DTYPES[name], rows=unit.stop - unit.start, info=units.info)
    if values is None:
        units.settle(unit, key, "its index does not say that its chunks lie in order")
    return values
