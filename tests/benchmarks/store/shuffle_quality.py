"""Measure how well the trainer's order mixes: ``python -m tests.benchmarks.store.shuffle_quality``.

It takes an epoch of the paper's size and a full shuffle, and measures three things. Rank correlation (Spearman) of
store row and position: does the order still follow the store? Rank correlation of rows that follow each other: do
neighbours stay together? And the share of a batch's pairs (of rows) that come from one range, and from one chunk:
does a batch look like one place of the corpus? The last is what an order that reads whole chunks pays, and what a
contrastive batch feels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.benchmarks.tables import table
from train.data.batch_order import BatchOrder

ROWS, RANGE_ROWS, CHUNK_ROWS, BATCH, SEED = 2_900_000, 8192, 256, 1024, 20261123
Rows = npt.NDArray[np.int64]


def spearman(one: Rows, other: Rows) -> float:
    """Return the rank correlation of two columns without ties."""
    ranks = [np.argsort(np.argsort(column)) for column in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def same_share(batches_SB: Rows, rows: int) -> float:
    """Return the share of pairs of a batch's rows that lie in one stretch of so many store rows, as a mean."""
    stretches_SB = np.sort(batches_SB // rows, axis=1)
    total = 0
    for stretches_B in stretches_SB:
        counts = np.diff(np.flatnonzero(np.concatenate(([True], np.diff(stretches_B) > 0, [True]))))
        total += int((counts * (counts - 1)).sum())
    return total / (len(stretches_SB) * batches_SB.shape[1] * (batches_SB.shape[1] - 1))


def quality(batches_SB: Rows) -> dict[str, float]:
    """Return the measures of the batches of an epoch."""
    order = batches_SB.reshape(-1)
    return {
        "rank_correlation": round(spearman(order, np.arange(len(order))), 4),
        "neighbours": round(spearman(order[:-1], order[1:]), 4),
        "same_range_percent": round(100 * same_share(batches_SB, RANGE_ROWS), 4),
        "same_chunk_percent": round(100 * same_share(batches_SB, CHUNK_ROWS), 4),
    }


def of_order(**layout: Any) -> Rows:
    """Return the batches of an epoch of the trainer's order."""
    order = BatchOrder(np.arange(ROWS), seed=SEED, batch_size=BATCH, block_rows=CHUNK_ROWS, **layout)
    return np.stack([order[step] for step in range(order.steps_per_epoch)])


def full_shuffle() -> Rows:
    """Return the batches of a shuffle of all rows at once."""
    rows = np.random.Generator(np.random.Philox(SEED)).permutation(ROWS)
    return rows[: len(rows) // BATCH * BATCH].reshape(-1, BATCH)


def main() -> None:
    """Measure, and print a table and JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    orders: dict[str, Callable[[], Rows]] = {"full shuffle": full_shuffle}
    for blocks, lanes in ((16, 1), (64, 1), (256, 1), (256, 8), (1024, 1), (1024, 8)):
        name = f"{blocks} chunks mixed, {lanes} lane{'s' if lanes > 1 else ''}"
        orders[name] = lambda blocks=blocks, lanes=lanes: of_order(window_blocks=blocks // lanes, lanes=lanes)
    orders["store order"] = lambda: of_order(window_blocks=1, shuffle=False)
    found: dict[str, Any] = {}
    for name, make in orders.items():
        start = time.perf_counter()
        batches_SB = make()
        seconds = time.perf_counter() - start
        found[name] = quality(batches_SB) | {"seconds": round(seconds, 2)}
        print(name, found[name], file=sys.stderr)
    head = ("order", "rank correlation", "neighbours", "same range, %", "same chunk, %", "s to make the order")
    table(head, ([name, *(f"{value:.4f}" for value in values.values())] for name, values in found.items()))


if __name__ == "__main__":
    main()
