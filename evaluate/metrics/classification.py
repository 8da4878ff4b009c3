"""Metrics of classification on many resamples at once: accuracies, F1, AUROC, average precision.

Definitions are those of scikit-learn with ``sample_weight``. A mean over classes ("macro") is over those classes that
have test items at all; a resample that lacks one of them is undefined.

Axes: N test items, C classes, R resamples, B resamples of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

from .predictions import Columns, Samples, Weights

OneVersusRest = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]

BLOCK_BYTES = 2**22
"""Bytes of the weights of a block of resamples: they fit into a processor's cache."""


def accuracy(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the share of items whose class scores highest (the first of equals)."""
    correct_N = columns["score"].argmax(axis=1) == columns["target"]
    return weighted_mean(correct_N, weights_RN)


def accuracy_in_group(columns: Columns, weights_RN: Weights, *, group: str) -> Samples:
    """Return the accuracy over the items of one group."""
    inside_N = columns["group"] == group
    correct_N = columns["score"].argmax(axis=1) == columns["target"]
    return weighted_mean(correct_N[inside_N], weights_RN[:, inside_N])


def group_accuracy(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the mean over groups of their accuracies; a resample that lacks a group is undefined."""
    groups = np.unique(columns["group"])
    return np.asarray(np.mean([accuracy_in_group(columns, weights_RN, group=str(one)) for one in groups], axis=0))


def balanced_accuracy(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the mean over classes of the share of their items that are right."""
    right_RC, items_RC, _ = confusion_sums(columns, weights_RN)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((right_RC / items_RC).mean(axis=1))


def macro_f1(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the mean over classes of 2 TP / (2 TP + FP + FN)."""
    right_RC, items_RC, predicted_RC = confusion_sums(columns, weights_RN)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1_RC = np.where(items_RC > 0, 2 * right_RC / (items_RC + predicted_RC), np.nan)
    return np.asarray(f1_RC.mean(axis=1))


def label_accuracy(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the share of all labels of all items that are right at a threshold of 0.5."""
    right_NC = (columns["score"] >= 0.5) == (columns["target"] > 0)
    return weighted_mean(right_NC.mean(axis=1), weights_RN)


def auroc(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the area under the ROC curve; ties count a half.

    For two classes it is that of the difference of their scores, for more the mean over each class against the rest,
    for several labels the mean over labels.
    """
    return _mean_over_classes(columns, weights_RN, _auroc)


def average_precision(columns: Columns, weights_RN: Weights) -> Samples:
    """Return the sum over thresholds of precision times the step in recall, as a mean over classes like AUROC.

    For two classes it is that of the positive class: ``margin`` and ``positive`` if they are there, else class 1.
    """
    return _mean_over_classes(columns, weights_RN, _average_precision)


def weighted_mean(value_N: npt.NDArray[Any], weights_RN: Weights) -> Samples:
    """Return the mean of a value over each resample; NaN where a resample has no item."""
    total_R, sum_R = np.empty(len(weights_RN)), np.empty(len(weights_RN))
    value_N = value_N.astype(np.float64)
    for rows, weights_NB in blocks(weights_RN):
        sum_R[rows] = value_N @ weights_NB
        total_R[rows] = weights_NB.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sum_R / total_R


def blocks(weights_RN: Weights) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield resamples a few at a time, items first: summing along items then adds whole rows."""
    size = max(1, BLOCK_BYTES // (8 * max(1, weights_RN.shape[1])))
    for begin in range(0, len(weights_RN), size):
        rows = slice(begin, min(begin + size, len(weights_RN)))
        yield rows, np.ascontiguousarray(weights_RN[rows].T, np.float64)


def confusion_sums(
    columns: Columns, weights_RN: Weights, classes_C: npt.NDArray[np.integer] | None = None
) -> tuple[Samples, Samples, Samples]:
    """Return per resample and class, (R, C) each: how many are right, how many there are, how many are predicted.

    Args:
        classes_C: class numbers; those that have items if left out.
    """
    target_N, predicted_N = columns["target"], columns["score"].argmax(axis=1)
    classes_C = np.unique(target_N) if classes_C is None else classes_C
    is_NC, said_NC = target_N[:, None] == classes_C, predicted_N[:, None] == classes_C
    sums = []
    for indicator_NC in (is_NC & said_NC, is_NC, said_NC):
        sum_RC = np.empty((len(weights_RN), len(classes_C)))
        for rows, weights_NB in blocks(weights_RN):
            sum_RC[rows] = weights_NB.T @ indicator_NC.astype(np.float64)
        sums.append(sum_RC)
    return sums[0], sums[1], sums[2]


def _mean_over_classes(
    columns: Columns, weights_RN: Weights, metric: Callable[[OneVersusRest, Weights], Samples]
) -> Samples:
    """Return the mean of a two-class metric over those classes (or labels) that some items have and others lack."""
    parts = [part for part in _one_versus_rest(columns) if part[1].any() and not part[1].all()]
    if not parts:
        return np.full(len(weights_RN), np.nan)
    total_R = np.zeros(len(weights_RN))
    for part in parts:
        total_R += metric(part, weights_RN)
    return total_R / len(parts)


def _one_versus_rest(columns: Columns) -> list[OneVersusRest]:
    """Return score and membership of each class, or of the positive one of two."""
    target, score_NC = columns["target"], columns["score"]
    if not np.isfinite(score_NC).all():
        raise EvaluationError(
            f"{(~np.isfinite(score_NC).all(axis=1)).sum()} of {len(score_NC)} items have scores that are not finite"
        )
    if target.ndim == 2:
        return [(score_NC[:, label], target[:, label] > 0) for label in range(target.shape[1])]
    if "margin" in columns:
        return [(columns["margin"], columns["positive"] > 0)]
    if score_NC.shape[1] == 2:
        return [(score_NC[:, 1] - score_NC[:, 0], target == 1)]
    return [(score_NC[:, label], target == label) for label in range(score_NC.shape[1])]


def _auroc(part: OneVersusRest, weights_RN: Weights) -> Samples:
    """Return the share of pairs of a positive and a negative in which the positive scores higher, ties a half."""
    score_N, positive_N = part
    positives, negatives = np.flatnonzero(positive_N), np.flatnonzero(~positive_N)
    negatives = negatives[score_N[negatives].argsort()]
    lower = np.searchsorted(score_N[negatives], score_N[positives], side="left")
    not_higher = np.searchsorted(score_N[negatives], score_N[positives], side="right")
    value_R = np.empty(len(weights_RN))
    for rows, weights_NB in blocks(weights_RN):
        below = _sums_from_zero(weights_NB[negatives])
        weight = weights_NB[positives]
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs_B = weight.sum(axis=0) * below[-1]
            value_R[rows] = 0.5 * np.einsum("pb,pb->b", weight, below[lower] + below[not_higher]) / pairs_B
    return value_R


def _average_precision(part: OneVersusRest, weights_RN: Weights) -> Samples:
    """Return the mean over positives of the precision at their score, items of the same score taken together."""
    score_N, positive_N = part
    sides = [np.flatnonzero(positive_N), np.flatnonzero(~positive_N)]
    positives, negatives = (side[(-score_N[side]).argsort()] for side in sides)
    found = np.searchsorted(-score_N[positives], -score_N[positives], side="right")
    wrong = np.searchsorted(-score_N[negatives], -score_N[positives], side="right")
    value_R = np.empty(len(weights_RN))
    for rows, weights_NB in blocks(weights_RN):
        weight = weights_NB[positives]
        right_PB = _sums_from_zero(weight)[found]
        wrong_PB = _sums_from_zero(weights_NB[negatives])[wrong]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision_PB = np.where(weight > 0, right_PB / (right_PB + wrong_PB), 0.0)
            value = (weight * precision_PB).sum(axis=0) / weight.sum(axis=0)
        # Without a negative every ranking is perfect: no number to report.
        value_R[rows] = np.where(weights_NB[negatives].sum(axis=0) > 0, value, np.nan)
    return value_R


def _sums_from_zero(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return running sums along the first axis, with a row of zeros before the first."""
    sums = np.zeros((len(weight) + 1, weight.shape[1]))
    np.cumsum(weight, axis=0, out=sums[1:])
    return sums
