"""Metrics of retrieval and of answers to questions on many resamples at once.

Axes: N test items (queries, questions), R resamples, B resamples of a block.
"""

from __future__ import annotations

import numpy as np

from .classification import blocks, weighted_mean
from .predictions import Columns, Samples, Weights

RECALL_AT = (1, 5, 10)


def recall(columns: Columns, weights_RN: Weights, *, side: int, k: int) -> Samples:
    """Return the share of queries of a side with a positive among the first k."""
    asked_N = columns["side"] == side
    return weighted_mean(columns["rank"][asked_N] <= k, weights_RN[:, asked_N])


def mean_recall(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the mean of recall@1, 5 and 10 of both directions."""
    values = [recall(columns, weights_RN, side=side, k=k) for side in (0, 1) for k in RECALL_AT]
    return np.asarray(np.mean(values, axis=0))


def median_rank(columns: Columns, weights_RN: Weights, *, side: int) -> Samples:
    """Return the median rank of the best positive; the mean of the middle two where their number is even."""
    asked = np.flatnonzero(columns["side"] == side)
    asked = asked[columns["rank"][asked].argsort()]
    rank_N = columns["rank"][asked]
    value_R = np.full(len(weights_RN), np.nan)
    for rows, weights_NB in blocks(weights_RN[:, asked]):
        if not len(asked):
            break
        sums_NB = weights_NB.cumsum(axis=0)
        total_B = sums_NB[-1]
        lower_B = (sums_NB < np.ceil(total_B / 2)).sum(axis=0)
        upper_B = (sums_NB < np.floor(total_B / 2) + 1).sum(axis=0)
        some_B = total_B > 0
        block_B = np.full(len(total_B), np.nan)
        block_B[some_B] = (rank_N[lower_B[some_B]] + rank_N[upper_B[some_B]]) / 2
        value_R[rows] = block_B
    return value_R


def answers(columns: Columns, weights_RN: Weights, *, closed: bool | None) -> Samples:
    """Return the share of right answers: of closed questions, of open ones, or of all (None)."""
    asked_N = np.ones(weights_RN.shape[1], bool) if closed is None else columns["closed"].astype(bool) == closed
    return weighted_mean(columns["correct"][asked_N], weights_RN[:, asked_N])
