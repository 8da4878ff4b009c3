"""Random choices as pure functions of (seed, epoch, row) or (seed, step, row).

A choice does not depend on the number of ranks or workers, nor on what ran before it, so resuming needs no state. The
bits are raw output of counter-based Philox streams and of a hash: NumPy keeps bit generators stable between versions,
but not the methods built on them.

Axes: B batch rows, T teachers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

MAX_SEED = 2**64 - 1

MAX_EPOCH = 2**56 - 1
"""Largest epoch; the upper byte of that word of the Philox key holds the purpose."""

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Purpose(IntEnum):
    """The purpose of a random stream; streams of different purposes are independent."""

    BLOCKS = 1
    WINDOWS = 2
    CROPS = 3


def draw_teacher(available_BT: NDArray[np.bool_], rows_B: Rows, *, seed: int, epoch: int) -> Rows:
    """Draw for each row one of its available teachers, each with the same probability; -1 where there is none.

    The draw of a row depends on (seed, epoch, row) and that row's availability, not on the batch around it.

    Args:
        available_BT: which teachers have a feature of the row; the columns must mean the same teachers all the time.
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
    # The upper 32 bits scaled to [0, count); the bias is below count / 2**32.
    drawn_B = ((hash_B >> np.uint64(32)) * count_B.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    teacher_B: Rows = np.argmax(available_BT & (rank_BT == drawn_B[:, None] + 1), axis=1)
    return np.where(count_B > 0, teacher_B, -1)


def coins(rows_B: Rows, count: int, *, seed: int, step: int) -> NDArray[np.bool_]:
    """Toss fair coins for each row, (B, count): a function of seed, step, row and the coin's number."""
    key = _mix(np.array([seed], dtype=np.uint64) + np.uint64(_GOLDEN))
    # Draws of teachers mix the plain epoch into the key; this constant makes coins independent of them.
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


def bits(count: int, *, seed: int, epoch: int, purpose: Purpose, row: int = 0) -> NDArray[np.uint64]:
    """Return ``count`` random words for one purpose in one epoch of a run; different rows have different words."""
    _require_key(seed, epoch)
    key = np.array([seed, int(purpose) << 56 | epoch], dtype=np.uint64)
    # The generator counts in the lowest word, so no row reaches the words of the next one.
    counter = np.array([0, row, 0, 0], dtype=np.uint64)
    found: NDArray[np.uint64] = np.random.Philox(key=key, counter=counter).random_raw(count)
    return found


def between(low: float, high: float, word: int) -> float:
    """Return the number between ``low`` and ``high`` that a random word picks, uniformly."""
    return low + (high - low) * ((word >> 11) * 2.0**-53)


def below(count: int, word: int) -> int:
    """Return the number from 0 to ``count - 1`` that a random word picks; the bias is below count / 2**32."""
    return (word >> 32) * count >> 32


def shuffled_positions(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return a permutation: the positions in the order of their random words."""
    return np.argsort(words, kind="stable")


def _require_key(seed: int, epoch: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"epoch must be from 0 to 2**56 - 1, got {epoch}")
