"""The result of a task: its numbers, and the predictions from which they can be computed again.

Axes: N test items, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import metrics_named, seed_views
from store.config.problems import it_has
from store.errors import EvaluationError


@dataclass(kw_only=True, frozen=True, slots=True)
class TaskResult:
    """The result of one model in one task on one dataset.

    Attributes:
        primary: the metric that stands for the result.
        metrics: value by name, see ``metrics_named``, so that each can be computed on resamples. Where a task trains
            with several seeds it is the mean over them.
        seeds: by metric that all of them define, its value with each training seed; empty if nothing was trained with
            seeds.
        details: further content as JSON: classes, confusion, chosen settings, curves.
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

    Raises:
        EvaluationError: the primary metric is none of the task's, or it is undefined on these items.
    """
    if primary not in names:
        raise EvaluationError(f"{task} has no metric {primary!r}{it_has(primary, names)}")
    ones_1N = np.ones((1, len(predictions.ids)))
    known = metrics_named(names)
    views = seed_views(predictions.columns)
    by_seed = {name: [float(metric(view, ones_1N)[0]) for view in views] for name, metric in known.items()}
    metrics = {name: float(np.mean(values)) for name, values in by_seed.items()}
    if not np.isfinite(metrics[primary]):
        raise EvaluationError(f"{task}: {primary} is not defined on these {len(predictions.ids)} test items")
    # With some seed a metric may be undefined, such as a predictive value where nothing is flagged.
    defined = {name: values for name, values in by_seed.items() if np.isfinite(values).all()}
    return TaskResult(
        task=task,
        primary=primary,
        metrics=metrics,
        predictions=predictions,
        seeds=defined if len(views) > 1 else {},
        details=dict(details),
    )
