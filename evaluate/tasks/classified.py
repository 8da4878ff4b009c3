"""The common part of all classifications into one of several classes: checks before, predictions after.

Axes: N items, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluate.metrics.clinical import calibration_bins, calibration_of
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import SUBGROUP, metrics_named, seed_views
from evaluate.results.task_result import TaskResult, result_of
from evaluate.tasks.fitting.thresholds import Deciding, Validation, decide
from store.errors import EvaluationError

from .inputs import Array, LabelledFeatures, check_disjoint, check_labels, check_target

SINGLE_LABEL = ("auroc", "balanced_accuracy", "accuracy", "macro_f1", "average_precision", "brier", "ece")
SEVERAL_LABELS = ("auroc", "average_precision", "label_accuracy")
OF_DECISIONS = ("sensitivity", "specificity", "ppv", "npv")
"""Metrics of two classes at a threshold."""


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


def check_label_splits(
    splits: Mapping[str, LabelledFeatures], labels: Sequence[str], *, allow_shared_groups: bool
) -> dict[str, Any]:
    """Check splits whose items have several labels, and return what a result records about them.

    Raises:
        EvaluationError: a split is empty, its targets are not 0 and 1, no label has both kinds of its items, or splits
            share patients.
    """
    constant = {name: check_labels(split.target, labels, what=name) for name, split in splits.items()}
    groups = {name: split.clusters for name, split in splits.items()}
    return {
        "classes": list(labels),
        "class_items": splits["test"].target.sum(axis=0).tolist(),
        "classes_left_out": constant["test"],
        "constant_labels": constant,
        "groups_shared": check_disjoint(groups, allow_shared=allow_shared_groups),
    }


def predicted(
    test: LabelledFeatures,
    scores: Sequence[tuple[Array, Array]],
    *,
    classes: Sequence[str],
    positive: str | None,
    validation: Sequence[tuple[Array, Array]] = (),
    deciding: Deciding | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the columns that metrics read, and what a record says of the decisions; arguments as of ``classified``."""
    columns: dict[str, Array] = {"target": test.target.astype(np.int64)}
    for place, (score_NC, _) in enumerate(scores):
        columns[_of_seed("score", place)] = score_NC
    said: dict[str, Any] = {}
    if len(classes) == 2:
        number = positive_number(classes, positive)
        deciding = deciding or Deciding()
        columns["positive"] = test.target == number
        margins = [_margin(raw, number) for _, raw in scores]
        held = [Validation(margin=_margin(raw, number), positive=target == number) for target, raw in validation]
        flags, decided = decide(margins, held, deciding)
        for place, (margin_N, flagged_N) in enumerate(zip(margins, flags, strict=True)):
            columns |= {_of_seed("margin", place): margin_N, _of_seed("flagged", place): flagged_N}
        if deciding.prevalence is not None:
            columns["prevalence"] = np.full(len(test.ids), deciding.prevalence)
        said = {"positive": classes[number], **decided}
    for place, view in enumerate(seed_views(columns)):
        columns[_of_seed("bin", place)] = calibration_bins(calibration_of(view)[0])
    return columns, said


def classified(
    task: str,
    test: LabelledFeatures,
    scores: Sequence[tuple[Array, Array]],
    *,
    classes: Sequence[str],
    positive: str | None,
    primary: str,
    details: Mapping[str, Any],
    validation: Sequence[tuple[Array, Array]] = (),
    deciding: Deciding | None = None,
    more: Sequence[str] = (),
) -> TaskResult:
    """Return the result of one model or of one per training seed.

    Args:
        scores: by seed, probabilities (N, C) and what they come from: log-odds of the second of two classes, (N,), or
            outputs (N, C).
        classes: C names.
        positive: the positive one of two classes; the second if left out.
        validation: by seed, class numbers of validation items and what their probabilities come from; they choose
            the threshold of two classes.
        deciding: how the decisions of two classes are made and judged.
        more: further metrics.
    """
    columns, said = predicted(
        test, scores, classes=classes, positive=positive, validation=validation, deciding=deciding
    )
    names = SINGLE_LABEL + OF_DECISIONS if len(classes) == 2 else SINGLE_LABEL
    said_N = columns["score"].argmax(axis=1)
    details = {
        **details,
        **said,
        "confusion": confusion(columns["target"], said_N, len(classes)),
        "reliability": reliability(columns),
    }
    predictions = test.predictions(columns, strata="target")
    of_subgroups, parts = subgroup_metrics(predictions, primary)
    return result_of(
        task,
        primary=primary,
        names=[*names, *more, *of_subgroups],
        predictions=predictions,
        details=details | ({"subgroups": parts} if parts else {}),
    )


def with_labels(
    task: str, test: LabelledFeatures, columns: dict[str, Array], *, primary: str, details: Mapping[str, Any]
) -> TaskResult:
    """Return the result of a task whose items have several labels, by its columns ``target`` and ``score``."""
    predictions = test.predictions(columns)
    of_subgroups, parts = subgroup_metrics(predictions, primary)
    return result_of(
        task,
        primary=primary,
        names=[*SEVERAL_LABELS, *of_subgroups],
        predictions=predictions,
        details={**details, **({"subgroups": parts} if parts else {})},
    )


def _of_seed(column: str, place: int) -> str:
    return f"{column}.{place}" if place else column


def _margin(raw: Array, number: int) -> Array:
    """Return by how much the class of that number scores more than the other, (N,)."""
    difference_N = raw if raw.ndim == 1 else raw[:, 1] - raw[:, 0]
    return difference_N if number == 1 else -difference_N


def reliability(columns: Mapping[str, Array]) -> dict[str, Any]:
    """Return the points of a reliability plot: per bin of ``ece`` items, mean probability and share that came true.

    With several training seeds they are the first one's.
    """
    probability_N, outcome_N = calibration_of(columns)
    bins_N = columns["bin"]
    points = [
        {
            "n": int((bins_N == one).sum()),
            "probability": float(probability_N[bins_N == one].mean()),
            "share": float(outcome_N[bins_N == one].mean()),
        }
        for one in np.unique(bins_N)
    ]
    return {"of": "the positive class" if "positive" in columns else "the class that scores highest", "bins": points}


def subgroup_metrics(predictions: Predictions, primary: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the names of the primary metric in each subgroup, and by column and value its items and that name.

    A subgroup in which the metric is not defined, such as AUROC where all are of one class, has None for a name.
    """
    names, parts = [], {}
    for column, value_N in predictions.columns.items():
        if not column.startswith(SUBGROUP):
            continue
        of_column = {}
        for value in sorted(set(value_N.tolist())):
            name = f"{primary}[{column.removeprefix(SUBGROUP)}={value}]"
            found = metrics_named([name])[name](predictions.columns, np.ones((1, len(predictions.ids))))[0]
            defined = bool(np.isfinite(found))
            names += [name] if defined else []
            of_column[value] = {"n": int((value_N == value).sum()), "metric": name if defined else None}
        parts[column.removeprefix(SUBGROUP)] = of_column
    return names, parts


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
