"""The order of rows and batches, as pure functions of integers; they know no store, worker or tensor library.

A batch is a function of (seed, step): it does not depend on the number of ranks or workers, and resuming is an integer.

Axes: B batch rows, N rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .random_bits import Purpose, Rows, bits, shuffled_positions

MOST_LANES = 8
"""One machine has at most eight GPUs as a rule; further ranks share the chunks of a lane."""

_CACHED_EPOCHS = 2


def epoch_order(
    rows: Rows,
    *,
    seed: int,
    epoch: int,
    block_rows: int,
    window_blocks: int,
    lanes: int = 1,
    shuffle: bool = True,
) -> Rows:
    """Return a permutation of `rows` that reads whole chunks, yet mixes rows of many.

    Rows of one block (store rows with the same ``row // block_rows``, one chunk) stay together. The blocks are
    shuffled and dealt out to lanes, and in each lane the rows of every `window_blocks` consecutive blocks are mixed: a
    reader of a lane holds that many chunks.

    Args:
        rows: distinct store rows, in any order; the result depends on the set only.
        block_rows: rows of a chunk of the store.
        window_blocks: blocks of a lane whose rows are mixed.
        lanes: number of stretches of equal length, one after the other; rows left over by the division follow at the
            end. A block at the edge of two lanes has rows in both.
        shuffle: if false, the rows ascend.
    """
    if min(block_rows, window_blocks, lanes) < 1:
        raise ValueError(
            f"block_rows, window_blocks and lanes must be positive, got {block_rows}, {window_blocks} and {lanes}"
        )
    ascending = np.sort(np.asarray(rows, dtype=np.int64))
    if np.any(ascending[1:] == ascending[:-1]):
        raise ValueError("rows must be distinct; at least one occurs twice")
    words = bits(len(ascending), seed=seed, epoch=epoch, purpose=Purpose.WINDOWS)
    if not len(ascending) or not shuffle:
        return ascending
    blocks = ascending // block_rows
    starts = np.flatnonzero(np.concatenate(([True], blocks[1:] != blocks[:-1])))
    shuffled = shuffled_positions(bits(len(starts), seed=seed, epoch=epoch, purpose=Purpose.BLOCKS))
    sizes = np.diff(starts, append=len(ascending))[shuffled]
    ends = np.cumsum(sizes)
    positions = np.arange(len(ascending)) + np.repeat(starts[shuffled] - (ends - sizes), sizes)
    order: Rows = ascending[positions]
    for start, end in itertools.pairwise(_window_edges(ends, lanes=lanes, window_blocks=window_blocks)):
        order[start:end] = order[start:end][shuffled_positions(words[start:end])]
    return order


def _window_edges(block_ends: NDArray[np.int64], *, lanes: int, window_blocks: int) -> list[int]:
    """Return the positions where windows begin, and the end of the last one."""
    num_rows = int(block_ends[-1])
    lane_edges = [lane * (num_rows // lanes) for lane in range(lanes + 1)]
    edges = []
    for start, end in itertools.pairwise([*lane_edges, num_rows]):
        first, stop = np.searchsorted(block_ends, [start, end], side="right")
        inner = block_ends[first:stop]
        edges += [start, *inner[inner < end][window_blocks - 1 :: window_blocks].tolist()]
    return [*edges, num_rows]


class BatchOrder:
    """The endless sequence of global batches: ``order[step]`` is a pure function of the arguments and the step.

    Rows that do not fill a last batch are left out of an epoch; each epoch is shuffled anew and leaves out others.
    Orders of two epochs are cached for readers that prefetch across an epoch's end. Threads may share an instance.

    Args:
        rows: distinct store rows, in any order.
        batch_size: rows of a global batch, of all ranks together.
        block_rows: rows of a chunk of the store.
        window_blocks: blocks of a lane whose rows are mixed.
        lanes: number of equal parts of each batch. Each lane has chunks of its own, so ranks whose parts are whole
            lanes read each chunk once between them. The batches do not depend on the number of ranks.
        shuffle: if false, the rows of every epoch ascend.

    Raises:
        ValueError: there are fewer rows than one batch, or an argument is out of range.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        seed: int,
        batch_size: int,
        block_rows: int,
        window_blocks: int,
        lanes: int = 1,
        shuffle: bool = True,
    ) -> None:
        _require_a_batch(len(rows), batch_size)
        if batch_size % lanes:
            raise ValueError(f"a batch of {batch_size} rows cannot be split evenly over {lanes} lanes")
        self._rows: Rows = np.array(rows, dtype=np.int64)
        self._seed = seed
        self._batch_size = batch_size
        self._block_rows = block_rows
        self._window_blocks = window_blocks
        self._lanes = lanes
        self._shuffle = shuffle
        self._cached: tuple[tuple[int, Rows], ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return len(self._rows) // self._lanes // (self._batch_size // self._lanes)

    def epoch(self, step: int) -> int:
        """Return the epoch that global step `step` belongs to."""
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        return step // self.steps_per_epoch

    def __getitem__(self, step: int) -> Rows:
        part = self._batch_size // self._lanes
        start = (step - self.epoch(step) * self.steps_per_epoch) * part
        order, lane_rows = self._epoch_order(self.epoch(step)), len(self._rows) // self._lanes
        lanes = order[: lane_rows * self._lanes].reshape(self._lanes, lane_rows)
        return lanes[:, start : start + part].reshape(-1).copy()

    def steps(self, start: int = 0) -> Iterator[tuple[int, Rows]]:
        """Yield (step, batch) from step `start` on, without end."""
        step = start
        while True:
            yield step, self[step]
            step += 1

    def _epoch_order(self, epoch: int) -> Rows:
        # The tuple is only ever replaced as a whole, so threads at worst compute an order twice.
        for cached_epoch, order in self._cached:
            if cached_epoch == epoch:
                return order
        order = epoch_order(
            self._rows,
            seed=self._seed,
            epoch=epoch,
            block_rows=self._block_rows,
            window_blocks=self._window_blocks,
            lanes=self._lanes,
            shuffle=self._shuffle,
        )
        self._cached = ((epoch, order), *self._cached[: _CACHED_EPOCHS - 1])
        return order


def lanes_of(rows: Rows, *, batch_size: int, block_rows: int, window_blocks: int) -> int:
    """Return the number of lanes: enough that up to 8 ranks read different chunks; 1 for a small store.

    If a window holds all chunks, lanes would only separate rows that could be mixed.
    """
    if len(np.unique(rows // block_rows)) <= window_blocks:
        return 1
    return math.gcd(MOST_LANES, batch_size, window_blocks)


def for_rank(batch_B: Rows, rank: int, world_size: int) -> Rows:
    """Return the part of a global batch that `rank` of `world_size` works on: even, contiguous, in rank order."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    part, rest = divmod(len(batch_B), world_size)
    if rest:
        raise ValueError(f"a batch of {len(batch_B)} rows cannot be split evenly over {world_size} ranks")
    return batch_B[rank * part : (rank + 1) * part]


def _require_a_batch(num_rows: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if num_rows < batch_size:
        raise ValueError(f"{num_rows} rows are fewer than one batch of {batch_size}; lower the batch size")


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
