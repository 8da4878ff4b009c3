"""One side of a teacher's features on a local disk, as one array over the files of its store shards.

The files are mapped next to each other into one range of addresses. One call of NumPy then gathers the rows of a
window, of however many shards, and copies each row once, out of the operating system's page cache. What nobody
committed and what is not stored is not mapped, and reads as zeros.

Truncating a mapped file kills the process (SIGBUS). Nothing here truncates shards.

Linux only: elsewhere, and for chunks that do not begin on a page, `stored_side.py` reads chunks into a buffer.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.records import StoreInfo

from .shards import PlainShards

QUICK_BYTES_PER_S = 1e9
"""Slower than this, rows came from a disk. Out of the page cache they come at five to ten times that."""

MAPS = 8192
"""Files that one reader maps at most. Linux allows a process 65,530 mappings, and one of these may take two."""

PARTS = 4
"""Pieces of a shard that are mapped at most; a shard whose chunks lie in more pieces is read instead."""

_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value


class MappedFeatures:
    """The rows of one side of one teacher. Used by one thread at a time.

    Args:
        shards: on a local disk.
        row_bytes: of a feature as stored.
        limit: files that are mapped at once; the least recently used one makes room for another.
    """

    def __init__(self, shards: PlainShards, *, info: StoreInfo, row_bytes: int, limit: int) -> None:
        self._shards, self._info, self._row_bytes, self._limit = shards, info, row_bytes, limit
        # The number of the call that used a range last; 0 where it is not mapped.
        self._used = np.zeros(info.ranges, np.int64)
        self._calls = 0
        self._memory: mmap.mmap | None = None
        self._waits = False
        self._rows: npt.NDArray[np.void] = np.empty(0, f"V{row_bytes}")

    def cover(self, ranges: npt.NDArray[np.int64]) -> bool:
        """Map some committed ranges that are not mapped yet. Returns whether all of them are mapped now.

        Raises:
            CorruptChunkError: the file of one is not as it was committed.
        """
        if not len(ranges):
            return True
        if len(ranges) > self._limit or not self._reserved():
            return False
        self._calls += 1
        todo = ranges[self._used[ranges] == 0]
        others = np.setdiff1d(np.flatnonzero(self._used), ranges)
        surplus = max(0, len(others) + len(ranges) - self._limit)
        for number in others[np.argsort(self._used[others], kind="stable")][:surplus]:
            self._unmap(int(number))
        if not all(self._map(int(number)) for number in todo):
            return False
        self._used[ranges] = self._calls
        return True

    def take(self, rows_B: npt.NDArray[np.int64], out_BD: npt.NDArray[Any]) -> None:
        """Copy rows to an array of the stored dtype; rows of ranges that are not mapped are zeros."""
        if self._memory is None:
            out_BD[:] = 0
            return
        if self._waits:
            self._read_ahead(self._memory, rows_B)
        out_B = out_BD.view(self._rows.dtype)[:, 0]
        start = time.perf_counter()
        np.take(self._rows, rows_B, out=out_B, mode="clip")
        self._waits = out_B.nbytes < QUICK_BYTES_PER_S * (time.perf_counter() - start)
        # The pages stay in the page cache, but are no longer counted as this process's memory.
        self._memory.madvise(mmap.MADV_DONTNEED)

    def _read_ahead(self, memory: mmap.mmap, rows_B: npt.NDArray[np.int64]) -> None:
        """Ask the system to fetch all chunks of some rows now; by itself it fetches a few pages around each row."""
        chunk_bytes = self._info.chunk_rows * self._row_bytes
        wanted = np.zeros(len(self._rows) // self._info.chunk_rows + 1, bool)
        wanted[rows_B // self._info.chunk_rows] = True
        edges = np.flatnonzero(np.diff(wanted, prepend=False)) * chunk_bytes
        for begin, end in edges.reshape(-1, 2).tolist():
            memory.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _reserved(self) -> bool:
        """Reserve addresses for the whole store; they cost no memory. Returns False where that is not possible."""
        if self._memory is None:
            chunk_bytes = self._info.chunk_rows * self._row_bytes
            if sys.platform != "linux" or chunk_bytes % mmap.PAGESIZE:
                return False
            size = self._info.ranges * self._info.range_rows * self._row_bytes
            try:
                self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
            except OSError:
                return False
            self._rows = np.frombuffer(self._memory, self._rows.dtype)
        return True

    def _map(self, range_id: int) -> bool:
        runs = list(_runs(self._shards.offsets(range_id), self._info.chunk_rows * self._row_bytes))
        if len(runs) > PARTS or any(offset % mmap.PAGESIZE for _, offset, _ in runs):
            return False
        with self._shards.opened(range_id) as descriptor:
            for place, offset, nbytes in runs:
                if not _overlay(self._address(range_id) + place, nbytes, descriptor, offset):
                    return False
        self._used[range_id] = self._calls
        return True

    def _unmap(self, range_id: int) -> None:
        _overlay(self._address(range_id), self._info.range_rows * self._row_bytes, None, 0)
        self._used[range_id] = 0

    def _address(self, range_id: int) -> int:
        return self._rows.ctypes.data + range_id * self._info.range_rows * self._row_bytes


def _runs(offsets_K: npt.NDArray[np.int64], chunk_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield (place in the range, offset in the file, length) in bytes of each run of chunks that follow each other."""
    broken = np.diff(offsets_K) != chunk_bytes
    edges = [0, *(np.flatnonzero(broken | (offsets_K[1:] < 0)) + 1).tolist(), len(offsets_K)]
    for first, stop in pairwise(edges):
        if offsets_K[first] >= 0:
            yield first * chunk_bytes, int(offsets_K[first]), (stop - first) * chunk_bytes


def _overlay(address: int, nbytes: int, descriptor: int | None, offset: int) -> bool:
    """Map a part of a file, or no file, over reserved addresses. False where the system allows no more mappings."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if descriptor is None else mmap.MAP_SHARED
    place = -1 if descriptor is None else descriptor
    found = libc.mmap(address, nbytes, mmap.PROT_READ, kind | _MAP_FIXED, place, offset)
    if found == _MAP_FAILED:
        code = ctypes.get_errno()
        if code in (errno.ENOMEM, errno.ENODEV, errno.EACCES, errno.EPERM):
            return False
        raise OSError(code, os.strerror(code))
    return True
