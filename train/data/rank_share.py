"""Which part of each global batch a process works on: pure functions of integers, as in `order.py`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .order import Rows, for_rank


class StepOrder(Protocol):
    """Which rows each step has."""

    def __getitem__(self, step: int) -> Rows:
        """Return the rows of a step."""

    def epoch(self, step: int) -> int:
        """Return the epoch of a step."""


class ShareOrder:
    """What one process works on of each batch of an order.

    A batch is first cut into the parts that a step is worked on in, and each part is shared out: so the parts are the
    same for any number of processes.

    Args:
        order: of global batches.
        rank: of this process.
        world_size: how many share a batch.
        parts: that a batch is worked on in.
        first_step: the step of a run that is the order's step ``first``.
        first: a step of the order.
    """

    def __init__(
        self,
        order: StepOrder,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        first_step: int = 0,
        first: int = 0,
    ) -> None:
        self._order, self._rank, self._world_size, self._parts = order, rank, world_size, parts
        self._shift = first - first_step

    def __getitem__(self, step: int) -> Rows:
        rows_B = self._order[step + self._shift]
        if self._world_size == 1:
            return rows_B
        parts = rows_B.reshape(self._parts, -1)
        return np.concatenate([for_rank(part, self._rank, self._world_size) for part in parts])

    def epoch(self, step: int) -> int:
        """Return the epoch of a step of the run."""
        return self._order.epoch(step + self._shift)
