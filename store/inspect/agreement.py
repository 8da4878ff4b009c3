"""Compares two teachers' features of the same rows by linear centred kernel alignment (CKA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import StoreError
from store.format.records import Side, Status
from store.read.reader import FeatureStore

from .feature_statistics import draw_rows

CONSTANT = 1e-12
"""Features whose variance, summed over dimensions, is below this are all the same up to rounding."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Agreement:
    """CKA of each two teachers.

    Attributes:
        cka: by place in ``teachers``; None where too few rows are shared or a teacher's features do not vary.
        rows: rows that each two share in the sample; on the diagonal, a teacher's own.
        of_rows: rows that could have been: ok under at least two teachers.
    """

    side: Side
    seed: int
    sample: int
    of_rows: int
    teachers: tuple[str, ...]
    cka: tuple[tuple[float | None, ...], ...]
    rows: tuple[tuple[int, ...], ...]


def linear_cka(x_ND: npt.NDArray[np.floating[Any]], y_NE: npt.NDArray[np.floating[Any]]) -> float | None:
    """Return the linear CKA of two sets of features of the same rows, from 0 to 1; None where either does not vary.

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms of features that are centred over the rows (Kornblith et al.,
    "Similarity of Neural Network Representations Revisited", ICML 2019, equation 3 and section 3 on linear kernels).
    It does not change under rotation and common scaling of either side. Where there are not many more rows than
    dimensions it is biased upwards.

    Args:
        y_NE: (rows, E) of the other; the widths may differ.
    """
    x_ND, y_NE = map(_centred, (x_ND, y_NE))
    if min(x_ND.var(axis=0, dtype=np.float64).sum(), y_NE.var(axis=0, dtype=np.float64).sum()) < CONSTANT:
        return None
    norm = np.linalg.norm(x_ND.T @ x_ND) * np.linalg.norm(y_NE.T @ y_NE)
    return float(np.linalg.norm(y_NE.T @ x_ND) ** 2 / norm)


def _centred(features_ND: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    # Products are twice as fast in 32 bits as in 64, and wrong by a millionth; features have 16 or 32.
    wide = np.result_type(features_ND, np.float32)
    return np.asarray(features_ND - features_ND.mean(axis=0, dtype=np.float64), wide)


def agreement(
    store: FeatureStore, *, side: Side, sample: int, seed: int, advance: Callable[[int], None] = lambda _: None
) -> Agreement:
    """Compare every two teachers that encode a side on a sample of rows.

    Args:
        sample: rows that are drawn at most, among those that are ok under at least two teachers. Their features are
            held in memory: sample times the sum of the widths times the bytes of a number.
        advance: told how many more steps are done; there are `steps` of them for the `compared` teachers.

    Raises:
        StoreError: there are no two such teachers.
    """
    names = compared(store, side)
    if len(names) < 2:
        raise StoreError(f"{store.location}: {len(names)} teachers with {side} features; agreement is of two or more")
    ok_NT = np.stack([store.status(name) == Status.OK for name in names], axis=1)
    shared_N = ok_NT.sum(axis=1) >= 2
    rows = draw_rows(shared_N, chunk_rows=store.info.chunk_rows, rows=sample, seed=seed)
    features = {}
    for name in names:
        features[name] = store.read(rows, teacher=name, side=side)
        advance(1)
    return agreement_of(features, ok_NT[rows], side=side, seed=seed, of_rows=int(shared_N.sum()), advance=advance)


def agreement_of(
    features: Mapping[str, npt.NDArray[np.floating[Any]]],
    ok_BT: npt.NDArray[np.bool_],
    *,
    side: Side,
    seed: int,
    of_rows: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Agreement:
    """Compare every two teachers' features of the same rows, which were drawn with a seed.

    Args:
        features: by teacher (B, D).
        ok_BT: whether a teacher, in the order of ``features``, has a feature of a row.
        advance: told after each comparison.
    """
    names = list(features)
    cka: list[list[float | None]] = [[None] * len(names) for _ in names]
    for one, other in combinations_with_replacement(range(len(names)), 2):
        both_B = ok_BT[:, one] & ok_BT[:, other]
        if both_B.sum() >= 2:
            found = linear_cka(features[names[one]][both_B], features[names[other]][both_B])
            cka[one][other] = cka[other][one] = found
        advance(1)
    counts_BT = ok_BT.astype(np.int64)
    return Agreement(
        side=side,
        seed=seed,
        sample=len(ok_BT),
        of_rows=of_rows,
        teachers=tuple(names),
        cka=tuple(tuple(line) for line in cka),
        rows=tuple(tuple(line) for line in (counts_BT.T @ counts_BT).tolist()),
    )


def compared(store: FeatureStore, side: Side) -> list[str]:
    """Return the teachers that encode a side."""
    return [name for name in store.teachers if side in store.spec(name).sides]


def steps(teachers: int) -> int:
    """Return how many steps `agreement` takes for some teachers."""
    return teachers + teachers * (teachers + 1) // 2
