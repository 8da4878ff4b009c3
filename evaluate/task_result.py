"""What a task hands on: its numbers, and the predictions that they can be computed from again.

Axes: N test items, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

from .metrics import METRICS, Columns, seed_views


@dataclass(kw_only=True, frozen=True, slots=True)
class Predictions:
    """What was predicted of every test item: enough to compute each metric again, on resamples too.

    Attributes:
        ids: N distinct names of the test items.
        clusters: N names of what the items come from (patient, slide, image), or None. A resample by clusters takes all
            items of one together.
        columns: arrays whose first axis are the test items. A column ``score.1`` is what ``score`` is, by a model
            trained with the second seed; see ``metrics.seed_views``.
        strata: the column within whose values a stratified resample draws, or None where there is no such thing.
    """

    ids: list[str]
    clusters: list[str] | None = None
    columns: dict[str, npt.NDArray[Any]]
    strata: str | None = None

    def __post_init__(self) -> None:
        """See that every column has a value per item."""
        count = len(self.ids)
        if not count:
            raise EvaluationError("there is no test item")
        if len(set(self.ids)) != count:
            raise EvaluationError(f"{count - len(set(self.ids))} of {count} test items have the name of another one")
        lengths = {name: len(column) for name, column in self.columns.items()}
        if self.clusters is not None:
            lengths["clusters"] = len(self.clusters)
        wrong = {name: length for name, length in lengths.items() if length != count}
        if wrong:
            raise EvaluationError(f"there are {count} test items, but other numbers of values: {wrong}")
        if self.strata is not None and self.strata not in self.columns:
            raise EvaluationError(f"the column of strata, {self.strata!r}, is not one of {', '.join(self.columns)}")


@dataclass(kw_only=True, frozen=True, slots=True)
class TaskResult:
    """What one model reached in one task on one dataset.

    Attributes:
        task: e.g. ``zero_shot``.
        primary: the metric that stands for the result.
        metrics: value by name; the names are keys of ``metrics.METRICS``, so each can be computed on resamples. Where a
            task trains with several seeds it is the mean over them.
        predictions: of every test item.
        seeds: by metric, its value with each training seed; empty if nothing was trained with seeds.
        details: whatever else is worth keeping, as JSON: classes, confusion, chosen settings, curves.
    """

    task: str
    primary: str
    metrics: dict[str, float]
    predictions: Predictions
    seeds: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def result_of(
    task: str,
    *,
    primary: str,
    names: Sequence[str],
    predictions: Predictions,
    details: Mapping[str, Any],
) -> TaskResult:
    """Compute a task's metrics from its predictions.

    Args:
        task: its name.
        primary: one of names.
        names: keys of METRICS.
        predictions: of every test item.
        details: as JSON.

    Raises:
        EvaluationError: the primary metric is none of the task's, or it is undefined on these items.
    """
    if primary not in names:
        raise EvaluationError(f"{task} has no metric {primary!r}; it has {', '.join(names)}")
    ones_1N = np.ones((1, len(predictions.ids)))
    metrics = {name: float(METRICS[name](predictions.columns, ones_1N)[0]) for name in names}
    if not np.isfinite(metrics[primary]):
        raise EvaluationError(f"{task}: {primary} is not defined on these {len(predictions.ids)} test items")
    return TaskResult(
        task=task,
        primary=primary,
        metrics=metrics,
        predictions=predictions,
        seeds=_by_seed(names, predictions.columns, ones_1N),
        details=dict(details),
    )


def _by_seed(names: Sequence[str], columns: Columns, ones_1N: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    """Return each metric's value with every seed; nothing where there is one model only."""
    views = seed_views(columns)
    if len(views) == 1:
        return {}
    return {name: [float(METRICS[name](view, ones_1N)[0]) for view in views] for name in names}
