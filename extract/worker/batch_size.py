"""How many rows a teacher gets at once: halved when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")


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
