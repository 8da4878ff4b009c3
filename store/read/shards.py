"""Reads the bytes of a teacher's store shards without Zarr.

Only for arrays as `arrays.py` makes them; `is_plain` tells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import CorruptChunkError, LocationError
from store.format.arrays import ZARR_FOLDER, Side, chunks_of, decode_index, index_bytes, shard_key
from store.format.records import Receipt, Spec, StoreInfo
from store.io.location import Location


def is_plain(location: Location, spec: Spec, side: Side, *, info: StoreInfo) -> bool:
    """Whether an array's chunks are its values as they lie, which docs/store-format.md asks for."""
    try:
        stored = json.loads(location.read(f"{ZARR_FOLDER}/{spec.teacher}/{side}/zarr.json"))
        (sharding,) = stored["codecs"]
        inside = sharding["configuration"]
        found = (
            stored["data_type"],
            stored["chunk_grid"]["configuration"]["chunk_shape"],
            stored["chunk_key_encoding"]["configuration"]["separator"],
            sharding["name"],
            inside["chunk_shape"],
            [codec["name"] for codec in inside["codecs"]],
            [codec["name"] for codec in inside["index_codecs"]],
            inside["index_location"],
            # A codec of values of one byte has no byte order.
            {(codec.get("configuration") or {}).get("endian", "little") for codec in inside["codecs"]},
        )
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return False
    expected = (
        spec.stored_dtype,
        [info.range_rows, spec.embed_dim],
        "/",
        "sharding_indexed",
        [info.chunk_rows, spec.embed_dim],
        ["bytes"],
        ["bytes", "crc32c"],
        "end",
        {"little"},
    )
    return found == expected


class PlainShards:
    """The store shards of one side of one teacher. Safe for use from several threads.

    Args:
        receipts: of what is committed, by range.
    """

    def __init__(
        self, location: Location, spec: Spec, side: Side, *, receipts: Mapping[int, Receipt], info: StoreInfo
    ) -> None:
        self._location, self._teacher, self._side = location, spec.teacher, side
        self._receipts, self._info = receipts, info
        self._chunk_bytes = info.chunk_rows * spec.embed_dim * np.dtype(spec.stored_dtype).itemsize
        self._offsets: dict[int, npt.NDArray[np.int64]] = {}

    def offsets(self, range_id: int) -> npt.NDArray[np.int64]:
        """Return where each chunk of a committed range's shard begins, -1 where it is not stored; read once.

        Raises:
            CorruptChunkError: the shard has no such index.
        """
        if range_id not in self._offsets:
            # Threads at worst read an index twice.
            self._offsets[range_id] = self._read_index(range_id)
        return self._offsets[range_id]

    def _read_index(self, range_id: int) -> npt.NDArray[np.int64]:
        stored = self._receipts[range_id].objects.get(self._key(range_id))
        if stored is None:
            raise self._corrupt(range_id, "is not named by its receipt")
        end = stored.nbytes - index_bytes(self._info)
        if end < 0:
            raise self._corrupt(
                range_id, f"has {stored.nbytes} bytes, too few for an index of {chunks_of(self._info)} chunks"
            )
        data = np.empty(index_bytes(self._info), np.uint8)
        self.read_into(data, range_id, end)
        try:
            return decode_index(data, chunk_bytes=self._chunk_bytes, end=end)
        except ValueError as error:
            raise self._corrupt(range_id, str(error)) from error

    def read_into(self, buffer: npt.NDArray[Any], range_id: int, offset: int) -> None:
        """Fill a buffer with the bytes of a shard from ``offset`` on.

        Raises:
            CorruptChunkError: the shard is not there, or ends before.
            LocationError: the disk or the storage fails.
        """
        view = buffer.data.cast("B")
        try:
            data = self._location.read_part(self._key(range_id), offset, len(view))
        except FileNotFoundError as error:
            raise self._corrupt(range_id, "is committed, but not there") from error
        if len(data) < len(view):
            end = offset + len(data)
            raise self._corrupt(range_id, f"ends at byte {end}, expected {len(view)} bytes from {offset} on")
        view[:] = data

    @contextmanager
    def opened(self, range_id: int) -> Iterator[int]:
        """Open a shard of a store on a local disk, as a file descriptor.

        Raises:
            CorruptChunkError: the shard is not there, or not as long as it was when it was committed.
            LocationError: the disk fails.
        """
        key = self._key(range_id)
        try:
            descriptor = os.open(f"{self._location.uri}/{key}", os.O_RDONLY)
        except FileNotFoundError as error:
            raise self._corrupt(range_id, "is committed, but not there") from error
        except OSError as error:
            raise LocationError(f"{self._location.show(key)}: {error.strerror or error}") from error
        try:
            found, expected = os.fstat(descriptor).st_size, self._receipts[range_id].objects[key].nbytes
            if found != expected:
                raise self._corrupt(range_id, f"has {found} bytes, expected {expected}")
            yield descriptor
        finally:
            os.close(descriptor)

    def _key(self, range_id: int) -> str:
        return shard_key(self._teacher, self._side, range_id)

    def _corrupt(self, range_id: int, what: str) -> CorruptChunkError:
        return CorruptChunkError(
            f"{self._location.show(self._key(range_id))}: {what}",
            hint=f"python -m store verify {self._location} --deep says what else is damaged; python -m store repair "
            f"{self._location} --deep drops it, python -m extract run makes it anew",
        )
