"""F1, precision and recall as MMKD-CLIP's released evaluator has them, on many resamples at once.

It calls scikit-learn with ``average="binary"`` where the test items are of two classes, which is about label 1
whatever it means, and else with ``average="macro"``, which is over the classes that a resample has or that were
predicted for it. A class without a prediction has the precision 0.

Axes: N test items, R resamples, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .classification import confusion_sums
from .predictions import Columns, Samples, Weights


def f1(columns: Columns, weights_RN: Weights) -> Samples:
    """Return 2 TP / (2 TP + FP + FN)."""
    right_RC, items_RC, said_RC = _sums(columns, weights_RN)
    return _mean(2 * right_RC, items_RC + said_RC, items_RC + said_RC, weights_RN)


def precision(columns: Columns, weights_RN: Weights) -> Samples:
    """Return TP / (TP + FP)."""
    right_RC, items_RC, said_RC = _sums(columns, weights_RN)
    return _mean(right_RC, said_RC, items_RC + said_RC, weights_RN)


def recall(columns: Columns, weights_RN: Weights) -> Samples:
    """Return TP / (TP + FN)."""
    right_RC, items_RC, said_RC = _sums(columns, weights_RN)
    return _mean(right_RC, items_RC, items_RC + said_RC, weights_RN)


def _sums(columns: Columns, weights_RN: Weights) -> tuple[Samples, Samples, Samples]:
    """Return (R, C) each: right predictions, items and predictions of each class, or of label 1 if there are two."""
    there = np.unique(columns["target"])
    classes_C = there[1:] if len(there) == 2 else np.union1d(there, columns["score"].argmax(axis=1))
    return confusion_sums(columns, weights_RN, classes_C)


def _mean(
    part_RC: npt.NDArray[np.float64],
    whole_RC: npt.NDArray[np.float64],
    known_RC: npt.NDArray[np.float64],
    weights_RN: Weights,
) -> Samples:
    """Return the mean share over the classes that are known to a resample; a share of nothing is 0, of no item NaN."""
    share_RC = np.divide(part_RC, whole_RC, out=np.zeros_like(part_RC), where=whole_RC > 0)
    known = np.maximum((known_RC > 0).sum(axis=1), 1)
    return np.where(weights_RN.any(axis=1), share_RC.sum(axis=1) / known, np.nan)
