"""The part of each global batch that one process works on: pure functions of integers."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .batch_order import for_rank
from .random_bits import Rows


class StepOrder(Protocol):
    """The rows of each step."""

    def __getitem__(self, step: int) -> Rows:
        """Return the rows of a step."""

    def epoch(self, step: int) -> int:
        """Return the epoch of a step."""


class ShareOrder:
    """The share of one process in each batch of an order.

    A batch is first cut into the parts of a step (``accumulate``), and each part is shared out, so the parts are the
    same for any number of processes.

    Args:
        parts: number of parts of a step.
        first_step: step of the run that corresponds to step ``first`` of the order.
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
