"""Which rows, in which order, and which teacher of each: pure functions of integers.

They know no store, no worker and no tensor library. Every choice is a function of (seed, epoch, row) or (seed, step):
a batch does not depend on the number of ranks or workers nor on what ran before it, and resuming is an integer.
Random bits are taken raw from counter-based Philox streams and a hash, and turned into an order by sorting: NumPy keeps
bit generators stable between versions, but not the methods built on them.

Axes: B batch rows, T teachers, N rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

MAX_EPOCH = 2**56 - 1
"""Largest epoch; the upper byte of that word of the Philox key holds the purpose."""

MOST_LANES = 8
"""As many as one machine has GPUs, as a rule; ranks beyond that share the chunks of a lane."""

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_CACHED_EPOCHS = 2


class _Purpose(IntEnum):
    """What a random stream is for; streams of different purposes are independent."""

    BLOCKS = 1
    WINDOWS = 2


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
        seed: of the run, 0 to 2**64 - 1.
        epoch: pass over the rows, from 0.
        block_rows: rows of a chunk of the store.
        window_blocks: blocks of a lane whose rows are mixed.
        lanes: stretches of equal length that the order consists of, one after the other; rows that are left over when
            they are dealt out evenly follow behind. A block at the edge of two lanes has rows in both.
        shuffle: otherwise the rows ascend.
    """
    if min(block_rows, window_blocks, lanes) < 1:
        raise ValueError(
            f"block_rows, window_blocks and lanes must be positive, got {block_rows}, {window_blocks} and {lanes}"
        )
    ascending = np.sort(np.asarray(rows, dtype=np.int64))
    if np.any(ascending[1:] == ascending[:-1]):
        raise ValueError("rows must be distinct; at least one occurs twice")
    bits = _bits(len(ascending), seed=seed, epoch=epoch, purpose=_Purpose.WINDOWS)
    if not len(ascending) or not shuffle:
        return ascending
    blocks = ascending // block_rows
    starts = np.flatnonzero(np.concatenate(([True], blocks[1:] != blocks[:-1])))
    shuffled = _shuffled_positions(_bits(len(starts), seed=seed, epoch=epoch, purpose=_Purpose.BLOCKS))
    sizes = np.diff(starts, append=len(ascending))[shuffled]
    ends = np.cumsum(sizes)
    positions = np.arange(len(ascending)) + np.repeat(starts[shuffled] - (ends - sizes), sizes)
    order: Rows = ascending[positions]
    for start, end in itertools.pairwise(_window_edges(ends, lanes=lanes, window_blocks=window_blocks)):
        order[start:end] = order[start:end][_shuffled_positions(bits[start:end])]
    return order


def _window_edges(block_ends: NDArray[np.int64], *, lanes: int, window_blocks: int) -> list[int]:
    """Return where windows begin and the last one ends, as positions in an order."""
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

    Epochs follow each other; the rows that do not fill a batch at the end of an epoch are left out of that epoch, and
    since each epoch is shuffled anew, they are others every time. The orders of the last two epochs are kept, which is
    what a reader needs that fetches ahead across the end of an epoch; threads may share an instance.

    Args:
        rows: distinct store rows, in any order.
        seed: of the run, 0 to 2**64 - 1.
        batch_size: rows of a global batch, of all ranks together.
        block_rows: rows of a chunk of the store.
        window_blocks: blocks of a lane whose rows are mixed.
        lanes: parts of equal size that each batch consists of, in turn. Lanes go through chunks of their own, so that
            ranks whose parts of a batch are whole lanes read each chunk once between them. The batches do not depend on
            how many ranks there are.
        shuffle: otherwise every epoch goes through the rows in ascending order.

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
        """Batches of an epoch."""
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
        # The tuple is replaced in one assignment and never changed, so threads at worst compute an order twice.
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
    """Return how many lanes to use: as many as let up to 8 ranks read chunks of their own, 1 for a small store.

    Where a window holds all chunks anyway, lanes would only keep rows apart that could be mixed.
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


def draw_teacher(available_BT: NDArray[np.bool_], rows_B: Rows, *, seed: int, epoch: int) -> Rows:
    """Draw for each row one of its available teachers, each with the same probability; -1 where there is none.

    The draw of a row depends on (seed, epoch, row) and that row's availability, not on the batch around it.

    Args:
        available_BT: which teachers have a feature of the row; the columns must mean the same teachers all the time.
        rows_B: store rows.
        seed: of the run, 0 to 2**64 - 1.
        epoch: pass over the rows, from 0.
    """
    if available_BT.ndim != 2 or available_BT.dtype != np.bool_ or available_BT.shape[:1] != rows_B.shape:
        raise ValueError(
            f"expected bool availability of shape ({len(rows_B)}, teachers), "
            f"got {available_BT.dtype} {available_BT.shape}"
        )
    _require_key(seed, epoch)
    if not available_BT.size:
        return np.full(len(rows_B), -1, dtype=np.int64)
    key = _mix(np.array([seed], dtype=np.uint64) + np.uint64(_GOLDEN))
    key = _mix(key ^ _mix(np.array([epoch], dtype=np.uint64)))
    hash_B = _mix(key ^ _mix(rows_B.astype(np.uint64) + np.uint64(_GOLDEN)))
    rank_BT = np.cumsum(available_BT, axis=1, dtype=np.int64)
    count_B = rank_BT[:, -1]
    # The upper 32 bits scaled to [0, count): without a modulo's bias to speak of (count / 2**32).
    drawn_B = ((hash_B >> np.uint64(32)) * count_B.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    teacher_B: Rows = np.argmax(available_BT & (rank_BT == drawn_B[:, None] + 1), axis=1)
    return np.where(count_B > 0, teacher_B, -1)


def coins(rows_B: Rows, count: int, *, seed: int, step: int) -> NDArray[np.bool_]:
    """Toss fair coins for each row, (B, count): a function of seed, step, row and the coin's number.

    Args:
        rows_B: store rows.
        count: coins per row.
        seed: 0 to 2**64 - 1.
        step: of the run.
    """
    key = _mix(np.array([seed], dtype=np.uint64) + np.uint64(_GOLDEN))
    # Draws of teachers use the key with the epoch as it is: another constant keeps coins apart from them.
    key = _mix(key ^ _mix(np.array([step], dtype=np.uint64) ^ np.uint64(_MIX_2)))
    row_B = _mix(key ^ _mix(rows_B.astype(np.uint64) + np.uint64(_GOLDEN)))
    hash_BC = _mix(row_B[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    found: NDArray[np.bool_] = hash_BC >> np.uint64(63) == 1
    return found


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words, one to one: the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX_1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX_2)
    return words ^ (words >> np.uint64(31))


def _bits(count: int, *, seed: int, epoch: int, purpose: _Purpose) -> NDArray[np.uint64]:
    _require_key(seed, epoch)
    key = np.array([seed, int(purpose) << 56 | epoch], dtype=np.uint64)
    bits: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return bits


def _shuffled_positions(bits: NDArray[np.uint64]) -> NDArray[np.intp]:
    return np.argsort(bits, kind="stable")


def _require_key(seed: int, epoch: int) -> None:
    if not 0 <= seed <= _MASK:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"epoch must be from 0 to 2**56 - 1, got {epoch}")


def _require_a_batch(num_rows: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if num_rows < batch_size:
        raise ValueError(f"{num_rows} rows are fewer than one batch of {batch_size}; lower the batch size")
