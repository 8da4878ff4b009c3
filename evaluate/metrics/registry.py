"""Every metric by name. Each is computed for many resamples of the test items at once.

A resample is a row of multiplicities: how often each test item is drawn. A row of ones is the test set itself, so that
the number that is reported and its interval come from the same code.

Axes: N test items, R resamples.

Columns that metrics read:

- single label: ``target`` (N,) class numbers, ``score`` (N, C); of two classes also ``margin`` (N,), how much more the
  positive class scores than the other, and ``positive`` (N,), whether the item is of it.
  Also ``bin``, and of decisions ``flagged`` and ``prevalence``, see ``clinical``.
- classes within groups: as single label, and ``group`` (N,) names; ``score`` is 0 for classes of other groups.
- several labels: ``target`` (N, C) of 0 and 1, ``score`` (N, C) between 0 and 1.
- retrieval: ``rank`` (N,) of a query's best positive, from 1; ``side`` (N,), 0 an image seeks texts, 1 a text images.
- questions: ``correct`` (N,), ``closed`` (N,).
- subgroups: of any of them also ``subgroup@COLUMN`` (N,), the value of each item.
- survival: ``time``, ``event``, ``risk`` (N,), and if they are there ``fold`` (N,) and ``uno_weight`` (N,).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

from . import classification, clinical, released, survival
from . import retrieval as ranks
from .predictions import Columns, Samples, Weights

SEED_COLUMN = re.compile(r"^(?P<column>.+)\.(?P<seed>\d+)$")


@dataclass(kw_only=True, frozen=True, slots=True)
class Metric:
    """A number that measures how good predictions are."""

    title: str
    function: Callable[[Columns, Weights], Samples]
    higher_is_better: bool = True

    def __call__(self, columns: Columns, weights_RN: Weights) -> Samples:
        """Return the metric on every resample; the mean over training seeds where columns hold several.

        Returns:
            (R,) float64, NaN where the metric is undefined, such as AUROC of one class.

        Raises:
            EvaluationError: weights or columns do not fit each other, or a score is not finite.
        """
        if weights_RN.ndim != 2:
            raise EvaluationError(f"weights must have two axes, resamples and items, not the shape {weights_RN.shape}")
        wrong = {name: len(column) for name, column in columns.items() if len(column) != weights_RN.shape[1]}
        if wrong:
            raise EvaluationError(f"weights are of {weights_RN.shape[1]} items, columns have others: {wrong}")
        views = seed_views(columns)
        total_R = np.zeros(len(weights_RN))
        for view in views:
            total_R += self.function(view, weights_RN)
        return total_R / len(views)


def seed_views(columns: Columns) -> list[Columns]:
    """Return the columns as each training seed left them.

    A column ``score.1`` takes the place of ``score`` for the second seed, ``score.2`` for the third. Columns without a
    number are the same for all. Without such columns there is one view.

    Raises:
        EvaluationError: a seed lacks one of the columns that others have.
    """
    numbered: dict[int, dict[str, npt.NDArray[Any]]] = {}
    shared = {}
    for name, column in columns.items():
        found = SEED_COLUMN.match(name)
        if found:
            numbered.setdefault(int(found["seed"]), {})[found["column"]] = column
        else:
            shared[name] = column
    kinds = {frozenset(of_seed) for of_seed in numbered.values()}
    if numbered and (len(kinds) > 1 or not next(iter(kinds)) <= set(shared) or max(numbered) != len(numbered)):
        raise EvaluationError(f"the columns of training seeds are not complete: {', '.join(columns)}")
    return [shared, *({**shared, **numbered[seed]} for seed in sorted(numbered))]


def _retrieval() -> dict[str, Metric]:
    """Return the metrics of both directions of retrieval."""
    found = {}
    for side, (name, title) in enumerate((("i2t", "image to text"), ("t2i", "text to image"))):
        for k in ranks.RECALL_AT:
            function = partial(ranks.recall, side=side, k=k)
            found[f"{name}_recall_at_{k}"] = Metric(title=f"recall@{k}, {title}", function=function)
        found[f"{name}_median_rank"] = Metric(
            title=f"median rank, {title}", function=partial(ranks.median_rank, side=side), higher_is_better=False
        )
    return {**found, "mean_recall": Metric(title="mean of the six recalls", function=ranks.mean_recall)}


METRICS: dict[str, Metric] = {
    "accuracy": Metric(title="accuracy", function=classification.accuracy),
    "balanced_accuracy": Metric(title="balanced accuracy", function=classification.balanced_accuracy),
    "group_accuracy": Metric(title="accuracy, mean over groups", function=classification.group_accuracy),
    "macro_f1": Metric(title="macro F1", function=classification.macro_f1),
    "auroc": Metric(title="AUROC", function=classification.auroc),
    "average_precision": Metric(title="average precision", function=classification.average_precision),
    "label_accuracy": Metric(title="accuracy over labels", function=classification.label_accuracy),
    "official_f1": Metric(title="F1, released evaluator", function=released.f1),
    "official_precision": Metric(title="precision, released evaluator", function=released.precision),
    "official_recall": Metric(title="recall, released evaluator", function=released.recall),
    "sensitivity": Metric(title="sensitivity", function=clinical.sensitivity),
    "specificity": Metric(title="specificity", function=clinical.specificity),
    "ppv": Metric(title="positive predictive value", function=clinical.positive_predictive_value),
    "npv": Metric(title="negative predictive value", function=clinical.negative_predictive_value),
    "brier": Metric(title="Brier score", function=clinical.brier, higher_is_better=False),
    "ece": Metric(title="calibration error", function=clinical.calibration_error, higher_is_better=False),
    **_retrieval(),
    "vqa_overall": Metric(title="accuracy, all questions", function=partial(ranks.answers, closed=None)),
    "vqa_open": Metric(title="accuracy, open questions", function=partial(ranks.answers, closed=False)),
    "vqa_closed": Metric(title="accuracy, closed questions", function=partial(ranks.answers, closed=True)),
    "harrell_c": Metric(title="Harrell's C", function=survival.harrell_c),
    "uno_c": Metric(title="Uno's C", function=survival.uno_c),
}
"""All metrics but those of parts of the test set, see ``metrics_named``. A task says which of them are its own."""

IN_GROUP = "accuracy@"
"""Before the name of a group: the accuracy over the items of that group alone."""

SUBGROUP = "subgroup@"
"""Before the name of a column of ``subgroups``: what each item has there."""

OF_SUBGROUP = re.compile(r"^(?P<metric>\w+)\[(?P<column>\w+)=(?P<value>.*)\]$", re.DOTALL)
"""Name of a metric over the items with one value in a column, such as ``auroc[sex=F]``."""


def is_metric(name: str) -> bool:
    """Return whether there is a metric of this name."""
    part = OF_SUBGROUP.match(name)
    return name in METRICS or name.startswith(IN_GROUP) or (part is not None and part["metric"] in METRICS)


def metrics_named(names: Iterable[str]) -> dict[str, Metric]:
    """Return metrics by name: those of METRICS, ``accuracy@GROUP``, and ``METRIC[COLUMN=VALUE]`` of a subgroup."""
    return {name: _named(name) for name in names}


def _named(name: str) -> Metric:
    part = OF_SUBGROUP.match(name)
    if part is not None and part["metric"] in METRICS:
        whole = METRICS[part["metric"]]
        return Metric(
            title=f"{whole.title}, {part['column']} {part['value']}",
            function=partial(_of_subgroup, metric=whole, column=SUBGROUP + part["column"], value=part["value"]),
            higher_is_better=whole.higher_is_better,
        )
    if name.startswith(IN_GROUP):
        group = name.removeprefix(IN_GROUP)
        return Metric(title=f"accuracy, {group}", function=partial(classification.accuracy_in_group, group=group))
    return METRICS[name]


def _of_subgroup(columns: Columns, weights_RN: Weights, *, metric: Metric, column: str, value: str) -> Samples:
    """Return a metric over the items of a subgroup; a resample of the whole test set decides how often each counts."""
    inside_N = columns[column] == value
    return metric.function({name: of[inside_N] for name, of in columns.items()}, weights_RN[:, inside_N])
