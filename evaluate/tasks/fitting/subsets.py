"""Small training sets drawn from large ones: fractions and shots, nested, by class, whole patients where known.

Nested: what a seed draws as 1 % is part of what it draws as 10 %, and its 1 shot is one of its 2, so that a curve over
sizes shows the size and not the draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

Rows = npt.NDArray[np.int64]


def fraction_rows(
    target_N: npt.NDArray[np.int64], fraction: float, *, seed: int, groups: Sequence[str] | None = None
) -> Rows:
    """Return the rows of a fraction (above 0, up to 1) of every class, sorted: at least one item of each.

    Where groups are known, a class's items are taken group by group until they are enough: of many images of a patient
    a small fraction then has few patients, as it would if few had been collected.
    """
    if not 0 < fraction <= 1:
        raise EvaluationError(f"a fraction of the training split must be above 0 and at most 1, not {fraction}")
    taken = []
    for label in np.unique(target_N):
        order = _by_group(_drawn_order(target_N, int(label), seed), groups)
        taken.append(order[: max(1, round(fraction * len(order)))])
    return np.sort(np.concatenate(taken))


def shot_rows(
    target_N: npt.NDArray[np.int64], shots: int, *, seed: int, groups: Sequence[str] | None = None
) -> tuple[Rows, dict[int, int]]:
    """Return the rows of so many items of every class, sorted, and the classes that have fewer: number to count.

    Where groups are known, each item of a class is of another group as long as there are any.
    """
    if shots < 1:
        raise EvaluationError(f"the number of shots must be at least 1, not {shots}")
    taken, short = [], {}
    for label in np.unique(target_N):
        order = _one_of_each_group_first(_drawn_order(target_N, int(label), seed), groups)
        taken.append(order[:shots])
        if len(order) < shots:
            short[int(label)] = len(order)
    return np.sort(np.concatenate(taken)), short


def rows_digest(ids: Sequence[str]) -> str:
    """Return the SHA-256 of the names of what was drawn, so that two programs can see that they drew the same."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def _drawn_order(target_N: npt.NDArray[np.int64], label: int, seed: int) -> Rows:
    """Return a class's rows in an order that depends on the seed and the class, not on other classes."""
    rows = np.flatnonzero(target_N == label)
    return np.asarray(np.random.default_rng([seed, label]).permutation(rows))


def _by_group(order: Rows, groups: Sequence[str] | None) -> Rows:
    """Return rows with those of one group together, groups in the order of their first row."""
    if groups is None:
        return order
    place: dict[str, int] = {}
    for row in order:
        place.setdefault(groups[row], len(place))
    return order[np.argsort([place[groups[row]] for row in order], kind="stable")]


def _one_of_each_group_first(order: Rows, groups: Sequence[str] | None) -> Rows:
    """Return rows such that the first of every group come before the second of any."""
    if groups is None:
        return order
    seen: dict[str, int] = {}
    turn = []
    for row in order:
        turn.append(seen.get(groups[row], 0))
        seen[groups[row]] = turn[-1] + 1
    return order[np.argsort(turn, kind="stable")]
