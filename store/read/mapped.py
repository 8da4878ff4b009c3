"""A teacher's features on a local disk as one array over the files of all its store shards.

The files are mapped beside each other into one stretch of addresses, so that the rows of a window, of however many
shards, are gathered by one call and copied once, straight out of the operating system's page cache. What nobody
committed and what is not stored is never mapped there, and reads as zeros.

Linux only: elsewhere, and for what does not lie on whole pages, `chunks.py` reads pieces of files.
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

_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value


class MappedFeatures:
    """The rows of one side of one teacher. Used by one thread at a time.

    Args:
        shards: where their bytes lie, on a local disk.
        info: the store's shape.
        width: D.
        dtype: as stored.
    """

    def __init__(self, shards: PlainShards, *, info: StoreInfo, width: int, dtype: np.dtype[Any]) -> None:
        self._shards, self._info = shards, info
        self._row_bytes = width * dtype.itemsize
        self._covered = np.zeros(info.ranges, bool)
        self._memory: mmap.mmap | None = None
        self._waits = False
        self._rows: npt.NDArray[np.void] = np.empty(0, f"V{self._row_bytes}")

    def cover(self, ranges: npt.NDArray[np.int64]) -> bool:
        """Map some committed ranges, each once. Returns whether all of them could be.

        Raises:
            CorruptChunkError: the file of one is not as it was committed.
        """
        todo = ranges[~self._covered[ranges]]
        return not len(todo) or (self._reserved() and all(self._map(int(number)) for number in todo))

    def take(self, rows_B: npt.NDArray[np.int64], out_BD: npt.NDArray[Any]) -> None:
        """Copy rows to an array of the stored dtype; rows of ranges that are not covered are zeros."""
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
        """Have the chunks of some rows fetched side by side; by itself the system fetches a row's surroundings only."""
        chunk_bytes = self._info.chunk_rows * self._row_bytes
        wanted = np.zeros(len(self._rows) // self._info.chunk_rows + 1, bool)
        wanted[rows_B // self._info.chunk_rows] = True
        edges = np.flatnonzero(np.diff(wanted, prepend=False)) * chunk_bytes
        for begin, end in edges.reshape(-1, 2).tolist():
            memory.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _reserved(self) -> bool:
        """Set addresses aside for the whole store; they cost no memory."""
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
        begin = range_id * self._info.range_rows * self._row_bytes
        runs = list(_runs(self._shards.offsets(range_id), self._info.chunk_rows * self._row_bytes))
        if any(offset % mmap.PAGESIZE for _, offset, _ in runs):
            return False
        with self._shards.opened(range_id) as descriptor:
            for place, offset, nbytes in runs:
                if not _overlay(self._rows.ctypes.data + begin + place, nbytes, descriptor, offset):
                    return False
        self._covered[range_id] = True
        return True


def _runs(offsets_K: npt.NDArray[np.int64], chunk_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield (place in the range, offset in the file, length) in bytes of each run of chunks that follow each other."""
    broken = np.diff(offsets_K) != chunk_bytes
    edges = [0, *(np.flatnonzero(broken | (offsets_K[1:] < 0)) + 1).tolist(), len(offsets_K)]
    for first, stop in pairwise(edges):
        if offsets_K[first] >= 0:
            yield first * chunk_bytes, int(offsets_K[first]), (stop - first) * chunk_bytes


def _overlay(address: int, nbytes: int, descriptor: int, offset: int) -> bool:
    """Map a part of a file over addresses that are set aside. False where the system allows no more mappings."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    found = libc.mmap(address, nbytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, offset)
    if found == _MAP_FAILED:
        code = ctypes.get_errno()
        if code in (errno.ENOMEM, errno.ENODEV, errno.EACCES, errno.EPERM):
            return False
        raise OSError(code, os.strerror(code))
    return True
