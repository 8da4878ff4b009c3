"""The common part of all classifications into one of several classes: checks before, predictions after.

Axes: N items, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluate.results.task_result import TaskResult, result_of
from store.errors import EvaluationError

from .inputs import Array, LabelledFeatures, check_disjoint, check_target

SINGLE_LABEL = ("auroc", "balanced_accuracy", "accuracy", "macro_f1", "average_precision")


def check_splits(
    splits: Mapping[str, LabelledFeatures], classes: Sequence[str], *, allow_shared_groups: bool
) -> dict[str, Any]:
    """Check that splits can be trained and tested on, and return what a result records about them.

    Raises:
        EvaluationError: a split is empty or of one class (val may be), has labels outside the list, or shares patients.
    """
    missing = {
        name: check_target(split.target, classes, what=name, several=name != "val") for name, split in splits.items()
    }
    groups = {name: split.clusters for name, split in splits.items()}
    return {
        "classes": list(classes),
        "classes_without_items": missing,
        "groups_shared": check_disjoint(groups, allow_shared=allow_shared_groups),
    }


def classified(
    task: str,
    test: LabelledFeatures,
    scores: Sequence[tuple[Array, Array]],
    *,
    classes: Sequence[str],
    positive: str | None,
    primary: str,
    details: Mapping[str, Any],
    names: Sequence[str] = SINGLE_LABEL,
) -> TaskResult:
    """Return the result of one model or of one per training seed.

    Args:
        scores: by seed, probabilities (N, C) and what they come from: log-odds of the second of two classes, (N,), or
            outputs (N, C).
        classes: C names.
        positive: the positive one of two classes; the second if left out.
    """
    columns: dict[str, Array] = {"target": test.target.astype(np.int64)}
    if len(classes) == 2:
        number = positive_number(classes, positive)
        columns["positive"] = test.target == number
        details = {**details, "positive": classes[number]}
    for place, (score_NC, raw) in enumerate(scores):
        suffix = f".{place}" if place else ""
        columns[f"score{suffix}"] = score_NC
        if len(classes) == 2:
            difference_N = raw if raw.ndim == 1 else raw[:, 1] - raw[:, 0]
            columns[f"margin{suffix}"] = difference_N if number == 1 else -difference_N
    said_N = columns["score"].argmax(axis=1)
    details = {**details, "confusion": confusion(columns["target"], said_N, len(classes))}
    predictions = test.predictions(columns, strata="target")
    return result_of(task, primary=primary, names=names, predictions=predictions, details=details)


def confusion(target_N: Array, predicted_N: Array, classes: int) -> list[list[int]]:
    """Return how many items of each class (rows) were taken for each class (columns)."""
    counts = np.bincount(target_N * classes + predicted_N, minlength=classes * classes)
    return [[int(count) for count in row] for row in counts.reshape(classes, classes)]


def positive_number(classes: Sequence[str], positive: str | None) -> int:
    """Return which of two classes is the positive one, the second if none is named; refuse an unknown name."""
    if positive is None:
        return 1
    if positive not in classes:
        raise EvaluationError(f"the positive class {positive!r} is none of {', '.join(classes)}")
    return list(classes).index(positive)
