"""Large arrays whose memory is used again once nobody holds them.

The operating system gives fresh memory page by page as it is written, which takes longer than filling it.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST_BYTES = 2**20
"""Smaller arrays are not worth keeping."""


class RecycledArrays:
    """Gives arrays like `numpy.empty`, from memory of arrays that it gave before and that are gone, views included."""

    def __init__(self) -> None:
        self._spare: dict[int, list[npt.NDArray[np.uint8]]] = {}
        self._sizes: set[int] = set()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array whose content is not defined."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if nbytes < SMALLEST_BYTES:
            return np.empty(shape, dtype)
        size = rounded_up(nbytes)
        self._sizes.add(size)
        spare = self._spare.setdefault(size, [])
        memory = spare.pop() if spare else np.empty(size, np.uint8)
        # Through a buffer, so that views refer to this array, and keep it alive, and not to the memory behind it.
        array = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(array, spare.append, memory).atexit = False
        return array[:nbytes].view(dtype).reshape(shape)

    def trim(self) -> None:
        """Free spare memory of sizes that were not asked for since the last call."""
        for size in self._spare.keys() - self._sizes:
            del self._spare[size]
        self._sizes = set()


def rounded_up(nbytes: int) -> int:
    """Return a size that others have too: a number from 8 to 16, times a power of two."""
    step = 1 << max(0, nbytes.bit_length() - 4)
    return -(-nbytes // step) * step
