"""Draws a sample of rows, for stores whose rows take too long to read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def draw_rows(eligible_N: npt.NDArray[np.bool_], *, chunk_rows: int, rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw about ``rows`` of some rows, in whole chunks.

    A chunk is the unit of reading: rows drawn one by one would touch nearly every chunk of a large store.

    Args:
        eligible_N: (N,) whether a row may be drawn.
        rows: how many are wanted; fewer are drawn where fewer may be, never more.

    Returns:
        Rows in ascending order: all that may be drawn if they are not more than wanted.
    """
    candidates = np.flatnonzero(eligible_N)
    if len(candidates) <= rows:
        return candidates
    chunk_of = candidates // chunk_rows
    # All chunks, so that teachers with different ok rows are mostly looked at in the same ones.
    order = np.random.default_rng(seed).permutation(-(-len(eligible_N) // chunk_rows))
    per_chunk = np.bincount(chunk_of, minlength=len(order))[order]
    enough = int(np.searchsorted(np.cumsum(per_chunk), rows)) + 1
    drawn = candidates[np.isin(chunk_of, order[:enough])]
    # Only as many rows of the last chunk are kept as are still wanted.
    last = drawn[drawn // chunk_rows == order[enough - 1]]
    surplus = len(drawn) - rows
    return np.setdiff1d(drawn, last[len(last) - surplus :]) if surplus else drawn
