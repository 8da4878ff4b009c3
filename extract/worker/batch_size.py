"""Chooses how many rows a teacher gets at once: what fits into a card's memory, halved when that runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import torch

from extract.teachers.base import FrozenTeacher

log = logging.getLogger(__name__)

T = TypeVar("T")


MEASURED_ROWS = (1, 8)
"""Rows of the two forward passes from which the memory of any number of rows is computed."""

MARGIN = 0.8
"""Share of the free memory that is planned with; the rest is for blocks of other sizes, which an allocator keeps."""

MULTIPLE = 8
"""Matrix units of a card work on multiples of it."""

LONG_CAPTION = "the " * 4096
"""Longer than any teacher's context."""


class Memory(Protocol):
    """A device's memory, in bytes."""

    def free(self) -> int:
        """Return what tensors of this process may still take."""

    def peak(self, call: Callable[[], object]) -> int:
        """Return the most that a call holds, beyond what was held before it."""


class CardMemory:
    """The memory of the present CUDA device."""

    def free(self) -> int:
        """See `Memory`; what this process's allocator keeps without using it counts as free."""
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def peak(self, call: Callable[[], object]) -> int:
        """See `Memory`."""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before


def rows_that_fit(
    teacher: FrozenTeacher, *, device: str, at_most: int, sharing: int = 1, memory: Memory | None = None
) -> int:
    """Return how many rows a teacher gets at first: what its entry states, else on a card what fits into its memory.

    To be called when every teacher of the process is loaded. On a CPU nothing is measured.

    Args:
        at_most: ``extract.batch_size``.
        sharing: processes that share the card; the teachers of one take turns.
        memory: measured instead of the present card's.
    """
    stated = min(teacher.batch_size or at_most, at_most)
    if teacher.batch_size or (device == "cpu" and memory is None):
        return stated
    memory = memory or CardMemory()
    try:
        found = [
            rows_within(int(memory.free() * MARGIN) // sharing, *(_peak(memory, call, rows) for rows in MEASURED_ROWS))
            for call in _calls(teacher, device)
        ]
    except torch.OutOfMemoryError:
        return 1
    return min(stated, *found)


def rows_within(free_bytes: int, peak_of_one: int, peak_of_eight: int) -> int:
    """Return the rows that fit, if memory grows by the same amount with each; at least one."""
    few, many = MEASURED_ROWS
    row_bytes = max(1, (peak_of_eight - peak_of_one) // (many - few))
    rows = max(1, (free_bytes - (peak_of_one - few * row_bytes)) // row_bytes)
    return rows - rows % MULTIPLE if rows > MULTIPLE else rows


def _calls(teacher: FrozenTeacher, device: str) -> list[Callable[[int], object]]:
    side = teacher.geometry.size_px

    def images(rows: int) -> object:
        return teacher.image_features(torch.zeros((rows, side, side, 3), dtype=torch.uint8, device=device))

    def texts(rows: int) -> object:
        tokens = teacher.tokenize([LONG_CAPTION] * rows)
        return teacher.text_features(torch.from_numpy(tokens.ids_BL).to(device), tokens.lengths_B.tolist())

    return [images, texts] if "text" in teacher.spec.sides else [images]


def _peak(memory: Memory, call: Callable[[int], object], rows: int) -> int:
    call(rows)  # The first call chooses kernels, and compiles where it is wanted.
    return memory.peak(partial(call, rows))


class BatchSize:
    """Rows that a teacher gets at once: halved when memory runs out, and never raised again, so that a run is steady.

    Attributes:
        rows: the present size; receipts record it.
    """

    def __init__(self, rows: int, *, teacher: str) -> None:
        self.rows, self._teacher = rows, teacher

    def over(self, count: int, encode: Callable[[slice], T]) -> list[T]:
        """Return the results of ``encode`` for consecutive slices of ``count`` rows, each row exactly once.

        Raises:
            OutOfMemoryError: memory is too small for a single row.
        """
        done: list[T] = []
        position = 0
        while position < count:
            batch = slice(position, min(position + self.rows, count))
            result = _unless_memory_runs_out(encode, batch, last=batch.stop - batch.start == 1)
            if result is None:
                self._halve(batch.stop - batch.start)
            else:
                done.append(result[0])
                position = batch.stop
        return done

    def _halve(self, rows: int) -> None:
        # Not where the error is caught, because its traceback keeps the tensors alive.
        torch.cuda.empty_cache()
        self.rows = rows // 2
        log.warning("%s: no memory for %d rows at once, going on with %d", self._teacher, rows, self.rows)


def _unless_memory_runs_out(encode: Callable[[slice], T], batch: slice, *, last: bool) -> tuple[T] | None:
    try:
        return (encode(batch),)
    except torch.OutOfMemoryError:
        if last:
            raise
        return None
