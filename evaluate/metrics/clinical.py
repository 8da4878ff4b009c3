"""Numbers that a clinician reads: of decisions at a threshold, and of probabilities as such.

They read the columns of ``classification``, and further ones: ``bin`` (N,), the bin of ``calibration_bins`` that an
item's probability is in; of two classes ``flagged`` (N,), whether an item's ``margin`` reaches the threshold, and, if a
prevalence is stated, ``prevalence`` (N,), that number.

Axes: N test items, C classes, R resamples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .classification import weighted_mean
from .predictions import Columns, Samples, Weights

BINS = 10
"""Bins of the calibration error, each of about as many items."""


def sensitivity(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the share of the positive items that are flagged; NaN where a resample has none."""
    positive_N = columns["positive"] > 0
    return weighted_mean(columns["flagged"][positive_N] > 0, weights_RN[:, positive_N])


def specificity(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the share of the negative items that are not flagged; NaN where a resample has none."""
    negative_N = columns["positive"] == 0
    return weighted_mean(columns["flagged"][negative_N] == 0, weights_RN[:, negative_N])


def positive_predictive_value(columns: Columns, weights_RN: Weights) -> Samples:
    """Return P(positive | flagged) by Bayes' rule at the prevalence; NaN where nothing is flagged."""
    share_R = _prevalence(columns, weights_RN)
    hit_R = sensitivity(columns, weights_RN) * share_R
    false_R = (1 - specificity(columns, weights_RN)) * (1 - share_R)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit_R / (hit_R + false_R)


def negative_predictive_value(columns: Columns, weights_RN: Weights) -> Samples:
    """Return P(negative | not flagged) by Bayes' rule at the prevalence; NaN where everything is flagged."""
    share_R = _prevalence(columns, weights_RN)
    right_R = specificity(columns, weights_RN) * (1 - share_R)
    missed_R = (1 - sensitivity(columns, weights_RN)) * share_R
    with np.errstate(invalid="ignore", divide="ignore"):
        return right_R / (right_R + missed_R)


def brier(columns: Columns, weights_RN: Weights) -> Samples:
    """Return Brier's score, as scikit-learn's ``brier_score_loss`` scales it.

    For two classes it is the mean of (p - y)^2 of the positive class, from 0 to 1; for more the mean over items of the
    sum over classes, from 0 to 2 (Brier 1950).
    """
    score_NC = columns["score"]
    error_NC = (score_NC - np.eye(score_NC.shape[1])[columns["target"]]) ** 2
    return weighted_mean(error_NC[:, 1] if score_NC.shape[1] == 2 else error_NC.sum(axis=1), weights_RN)


def calibration_error(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the expected calibration error: the sum over bins of |sum of (probability - outcome)| / items.

    The probability is that of the positive one of two classes, or of the class that scores highest. The bins are those
    of the test set, the same for every resample.
    """
    probability_N, outcome_N = calibration_of(columns)
    gap_N, total_R = probability_N - outcome_N, np.zeros(len(weights_RN))
    for one in np.unique(columns["bin"]):
        total_R += np.abs(weighted_mean(np.where(columns["bin"] == one, gap_N, 0.0), weights_RN))
    return total_R


def calibration_of(columns: Columns) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the probability that is judged and what came true, (N,) each, see ``calibration_error``."""
    score_NC, target_N = columns["score"], columns["target"]
    if score_NC.shape[1] > 2:
        return score_NC.max(axis=1), (score_NC.argmax(axis=1) == target_N).astype(np.float64)
    positive_N = columns["positive"] > 0 if "positive" in columns else target_N == 1
    # Which of the two scores is the positive one's follows from any item.
    number = int(target_N[0]) if positive_N[0] else 1 - int(target_N[0])
    return score_NC[:, number].astype(np.float64), positive_N.astype(np.float64)


def calibration_bins(probability_N: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the bin of each item, (N,): bounded by deciles of the probabilities, so that equal ones stay together."""
    bounds = np.unique(np.quantile(probability_N, np.arange(1, BINS) / BINS))
    return np.asarray(np.searchsorted(bounds, probability_N, side="right"), np.int64)


def _prevalence(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the share of positives, (R,): the stated one, else that of each resample."""
    if "prevalence" in columns:
        return np.full(len(weights_RN), float(columns["prevalence"][0]))
    return weighted_mean(columns["positive"] > 0, weights_RN)
