"""Memory for batches of images, which goes round: decoders fill one buffer while the student works on another."""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import multiprocessing
import queue
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch  # the processes that decode do without it

log = logging.getLogger(__name__)


class Buffers:
    """Buffers of uint8, each for one batch.

    A card copies from them without a wait, because their pages are pinned. A buffer that was given back is handed out
    again when the copy out of it has ended.

    Args:
        number: of buffers.
        shape: of each.
        shared: other processes write into them, see `memories`.
        pinned: batches are copied to a card.

    Attributes:
        memories: the shared memory of each buffer, which is inherited by the processes that write; empty if not shared.
    """

    def __init__(self, number: int, shape: tuple[int, ...], *, shared: bool, pinned: bool) -> None:
        size, context = math.prod(shape), multiprocessing.get_context("spawn")
        self.memories: list[Any] = [context.RawArray("B", size) for _ in range(number if shared else 0)]
        self._arrays = [as_array(memory, shape) for memory in self.memories] or [
            as_array(mmap.mmap(-1, size), shape)
            for _ in range(number)  # whole pages, which alone can be pinned
        ]
        self._copied: dict[int, torch.cuda.Event | None] = dict.fromkeys(range(number))
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(number):
            self._free.put(place)
        self._pinned = [array for array in self._arrays if pinned and _pin(array)]

    def __getitem__(self, number: int) -> npt.NDArray[np.uint8]:
        """Return a buffer's memory."""
        return self._arrays[number]

    def take(self) -> int:
        """Wait for a free buffer and return its number."""
        number = self._free.get()
        copied = self._copied[number]
        if copied is not None:
            copied.synchronize()
        return number

    def give(self, number: int, *, copied: torch.cuda.Event | None = None) -> None:
        """Give a buffer back; ``copied`` marks the end of the copy out of it."""
        self._copied[number] = copied
        self._free.put(number)

    def close(self) -> None:
        """Unpin the memory, when nothing is copied any more."""
        if not self._pinned:
            return
        from torch.cuda import cudart, synchronize

        synchronize()
        while self._pinned:
            cudart().cudaHostUnregister(self._pinned.pop().ctypes.data)  # type: ignore[no-untyped-call]


def as_array(memory: Any, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return shared memory as an array."""
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _pin(array: npt.NDArray[np.uint8]) -> bool:
    """Pin the pages of memory that torch did not allocate; return whether the driver does so."""
    from torch import zeros
    from torch.cuda import cudart

    with contextlib.suppress(RuntimeError):
        found = cudart().cudaHostRegister(array.ctypes.data, array.nbytes, 0)  # type: ignore[no-untyped-call]
        if int(found) == 0:
            return True
    with contextlib.suppress(RuntimeError):
        zeros(1, device="cuda")  # takes the driver's error, which would end the next kernel
    log.warning("the memory of batches cannot be pinned (ulimit -l?): each step waits for the copy of its images")
    return False
