"""Concordance of a risk with survival times, on many resamples at once.

A pair (i, j) can be compared if i had the event and j lived longer, or was censored at that same time. It is concordant
if i's risk is higher; equal risks count a half. This is lifelines' and scikit-survival's convention, where a pair of
events at the same time is not compared. Risk is higher for a worse outlook, the opposite of a survival time.

Items of different folds were scored by different models, so only pairs within a fold are compared, and the value is the
mean over folds.

Axes: N test items, R resamples, P items of a piece.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

from .predictions import Columns, Samples, Weights

PIECE_BYTES = 2**25
"""Bytes of the matrix of pairs that are in memory at once."""


def harrell_c(columns: Columns, weights_RN: Weights) -> Samples:
    """Return Harrell's C: the share of comparable pairs that are concordant (Harrell et al. 1996)."""
    return _mean_over_folds(columns, np.ones(weights_RN.shape[1]), weights_RN)


def uno_c(columns: Columns, weights_RN: Weights) -> Samples:
    """Return Uno's C: pairs weighted by the inverse probability of not being censored (Uno et al. 2011).

    ``uno_weight`` is what ``uno_weights`` computes from the training items.
    """
    return _mean_over_folds(columns, columns["uno_weight"], weights_RN)


def uno_weights(
    time_N: npt.NDArray[Any], *, train_time: npt.NDArray[Any], train_event: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Return G(t)^-2 of each test item, where G is the Kaplan-Meier estimate of not being censored by t.

    G is that of the training items; where an event and a censoring share a time the event comes first. Times from the
    last training time on count nothing: G may be zero there. That is scikit-survival's
    ``concordance_index_ipcw(tau=last training time)``.
    """
    censored = np.asarray(train_event) == 0
    times = np.unique(np.asarray(train_time)[censored])
    at_risk = np.array([((train_time > time) | ((train_time == time) & censored)).sum() for time in times])
    leaving = np.array([((train_time == time) & censored).sum() for time in times])
    survival = np.concatenate([[1.0], np.cumprod(1 - leaving / np.maximum(at_risk, 1))])
    reached_N = survival[np.searchsorted(times, time_N, side="right")]
    weight_N = np.zeros(len(time_N))
    inside_N = np.asarray(time_N) < np.max(train_time)
    weight_N[inside_N] = reached_N[inside_N] ** -2.0
    return weight_N


def _mean_over_folds(columns: Columns, pair_weight_N: npt.NDArray[Any], weights_RN: Weights) -> Samples:
    """Return the mean over folds of the concordance within each."""
    for name in ("time", "risk"):
        if not np.isfinite(columns[name]).all():
            raise EvaluationError(f"{(~np.isfinite(columns[name])).sum()} values of {name} are not finite")
    fold_N = columns.get("fold", np.zeros(weights_RN.shape[1], np.int64))
    folds = np.unique(fold_N)
    total_R = np.zeros(len(weights_RN))
    for fold in folds:
        items = np.flatnonzero(fold_N == fold)
        of_fold = {name: columns[name][items] for name in ("time", "event", "risk")}
        total_R += _concordance(of_fold, pair_weight_N[items], weights_RN[:, items])
    return total_R / len(folds)


def _concordance(columns: Columns, pair_weight_N: npt.NDArray[Any], weights_RN: Weights) -> Samples:
    """Return the weighted share of concordant pairs; the matrix of pairs is made a piece at a time."""
    time_N, event_N, risk_N = columns["time"], columns["event"].astype(bool), columns["risk"]
    weights_RN = weights_RN.astype(np.float64)
    starts = np.flatnonzero(event_N & (pair_weight_N > 0))
    size = max(1, PIECE_BYTES // (8 * max(1, len(time_N))))
    concordant_R, comparable_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    for begin in range(0, len(starts), size):
        rows = starts[begin : begin + size]
        time_P1, risk_P1 = time_N[rows, None], risk_N[rows, None]
        later_PN = (time_N > time_P1) | ((time_N == time_P1) & ~event_N)
        value_PN = later_PN * ((risk_N < risk_P1) + 0.5 * (risk_N == risk_P1))
        weight_RP = weights_RN[:, rows] * pair_weight_N[rows]
        concordant_R += np.einsum("rp,rp->r", weight_RP, weights_RN @ value_PN.T)
        comparable_R += np.einsum("rp,rp->r", weight_RP, weights_RN @ later_PN.T.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        return concordant_R / comparable_R
