"""Files of a local disk mapped beside each other, so that one call of NumPy gathers rows of many of them.

Addresses are reserved for a bounded number of store shards, each of which may take any place. Rows are copied once, out
of the operating system's page cache. What is not mapped reads as zeros.

Truncating a mapped file kills the process (SIGBUS). Nothing here truncates shards: they are replaced by a rename.

Linux only: elsewhere `stored_side.py` reads chunks into a buffer.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAPS = 12_288
"""Files that all readers of a process map at most. Linux allows 65,530 mappings, and each file may take two of them.

One reader of nine teachers has 682 files a side, where a window of 256 chunks lies in 256 at most, or in 512 if a span
of steps begins in the middle of one.
"""

_ASKED_BYTES = 2**19
"""Linux reads no more for one call than the disk takes in one request, 1,280 KiB by default, and drops the rest."""

_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value


class Budget:
    """Number of further files that the readers of this process may map."""

    def __init__(self, left: int) -> None:
        self.left, self._lock = left, threading.Lock()

    def take(self) -> bool:
        """Take one; False where none is left."""
        with self._lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True

    def give_back(self, counter: list[int]) -> None:
        """Return what a reader that is gone had taken."""
        with self._lock:
            self.left += counter[0]


BUDGET = Budget(MAPS)


class Slots:
    """Places for store shards of one side of one teacher. Used by one thread at a time.

    Args:
        range_rows: R.
        row_bytes: of a feature as stored.
        limit: number of places; the shard that was used least recently makes room for another.

    Raises:
        OSError: the system does not give the addresses.
    """

    def __init__(self, *, range_rows: int, row_bytes: int, limit: int) -> None:
        if sys.platform != "linux":
            raise OSError("files are mapped beside each other on Linux only")
        # Whole pages and whole rows.
        step = mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, row_bytes)
        self.limit, self._slot_rows, self._row_bytes = limit, -(-range_rows // step) * step, row_bytes
        self._slot_bytes = self._slot_rows * row_bytes
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        # The first place stays empty: zeros for what is not there.
        self._memory = mmap.mmap(-1, (limit + 1) * self._slot_bytes, flags, mmap.PROT_READ)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.rows = self._bytes.view(f"V{row_bytes}")
        self._held: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._taken = [0]
        weakref.finalize(self, BUDGET.give_back, self._taken).atexit = False

    def content(self, number: int) -> bytes | None:
        """Return which content of a range is mapped, None where it is not; from now on it is the last to go."""
        if number not in self._held:
            return None
        self._held.move_to_end(number)
        return self._held[number][1]

    def put(self, number: int, content: bytes, descriptor: int, nbytes: int) -> bool:
        """Map the first bytes of a range's shard. Returns False where no more files can be mapped."""
        if number in self._held:
            slot = self._held.pop(number)[0]
        elif self._taken[0] < self.limit and BUDGET.take():
            self._taken[0] += 1
            slot = self._taken[0]
        elif self._held:
            slot = self._held.popitem(last=False)[1][0]
        else:
            return False
        address = self._bytes.ctypes.data + slot * self._slot_bytes
        # What was there may have been longer.
        if not _overlay(address, self._slot_bytes, None) or not _overlay(address, nbytes, descriptor):
            return False
        self._held[number] = slot, content
        return True

    def shifts(self, numbers: Sequence[int], *, first: int, count: int, range_rows: int) -> npt.NDArray[np.int64]:
        """Return (count,) what turns a row of range ``first`` + i into its place in `rows`; zeros if not mapped."""
        shift = -range_rows * np.arange(first, first + count, dtype=np.int64)
        for number in numbers:
            if number in self._held:
                shift[number - first] += self._held[number][0] * self._slot_rows
        return shift

    def part(self, number: int, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Return some bytes of a mapped shard, which cannot be written to."""
        start = self._held[number][0] * self._slot_bytes
        return self._bytes[start + begin : start + end]

    def address(self, number: int) -> int:
        """Return where in memory a mapped shard begins."""
        return self._bytes.ctypes.data + self._held[number][0] * self._slot_bytes

    def let_go(self) -> None:
        """Have pages no longer counted as this process's memory; they stay in the page cache."""
        self._memory.madvise(mmap.MADV_DONTNEED)


def read_ahead(parts_N2: npt.NDArray[np.int64]) -> None:
    """Ask the disk for mapped memory before it is touched.

    A page that is touched first makes the system read megabytes around it, most of them for nothing. What is in the
    page cache costs a look. Does not wait for the data, and does not hold the interpreter's lock (`mmap.madvise` does).

    Args:
        parts_N2: address and bytes of each; what is no longer mapped is passed over.
    """
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for address, nbytes in parts_N2.tolist():
        aligned = address // mmap.PAGESIZE * mmap.PAGESIZE
        for begin in range(aligned, address + nbytes, _ASKED_BYTES):
            libc.madvise(begin, min(_ASKED_BYTES, address + nbytes - begin), mmap.MADV_WILLNEED)


def _overlay(address: int, nbytes: int, descriptor: int | None) -> bool:
    """Map the beginning of a file, or no file, over reserved addresses. False where the system allows no more."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE if descriptor is None else mmap.MAP_SHARED
    place = -1 if descriptor is None else descriptor
    if libc.mmap(address, nbytes, mmap.PROT_READ, kind | _MAP_FIXED, place, 0) == _MAP_FAILED:
        code = ctypes.get_errno()
        if code in (errno.ENOMEM, errno.ENODEV, errno.EACCES, errno.EPERM):
            return False
        raise OSError(code, os.strerror(code))
    return True
