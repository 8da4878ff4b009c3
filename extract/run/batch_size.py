"""How many rows a teacher is given at once, when the device's memory does not hold as many as was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")


class BatchSize:
    """Halved when memory runs out, and then kept, so that a run is steady.

    Args:
        rows: to begin with.
        teacher: for the log.

    Attributes:
        rows: as it is now; receipts record it.
    """

    def __init__(self, rows: int, *, teacher: str) -> None:
        self.rows, self._teacher = rows, teacher

    def over(self, count: int, encode: Callable[[slice], T]) -> list[T]:
        """Return what ``encode`` gives for consecutive slices of ``count`` rows; none is left out or done twice.

        Raises:
            OutOfMemoryError: there is no room for a single row.
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
        # Here and not where the error is caught: its traceback holds on to the tensors.
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
