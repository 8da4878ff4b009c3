"""The comparisons of docs/claim-plan.md: endpoints of models, and paired differences over draws, seeds and items.

Axes: S replicates (a draw and a seed), R resamples of the test items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from evaluate.metrics.paired_tests import Difference, difference, holm, over_seeds
from evaluate.metrics.predictions import Samples
from evaluate.report.comparison import Evidence
from evaluate.results.files import read_result, result_path
from evaluate.results.record import ResultRecord
from store.errors import EvaluationError

from .arms import DRAWS, Arm, draw_of
from .corpora import DATASETS
from .pipelines import teacher_names

RESAMPLES = 10_000

Number = tuple[float, Samples]
"""A number on the test items themselves, and on each resample, (R,)."""


class Results:
    """The results of a folder.

    Args:
        folder: of results of one kind.
        resamples: of the test items.
    """

    def __init__(self, folder: Path, *, resamples: int = RESAMPLES) -> None:
        self.folder = folder
        self._evidence = Evidence(folder, resamples=resamples)

    def record(self, model: str, dataset: str, task: str = "zero_shot") -> ResultRecord | None:
        """Return a record; None if there is none or it was skipped."""
        path = result_path(self.folder, model=model, task=task, dataset=dataset)
        found = read_result(path) if path.is_file() else None
        return found if isinstance(found, ResultRecord) else None

    def value(self, model: str, dataset: str, task: str = "zero_shot") -> float | None:
        """Return a primary metric."""
        record = self.record(model, dataset, task)
        return None if record is None else record.value

    def endpoint(self, model: str, datasets: Sequence[str] = DATASETS) -> float:
        """Return the mean of the primary zero-shot metrics."""
        return fmean(self._there(model, dataset).value for dataset in datasets)

    def number(self, model: str | Sequence[str], datasets: Sequence[str] = DATASETS) -> Number:
        """Return the mean over datasets of the zero-shot metric of one model, or of a model for each dataset."""
        models = [model] * len(datasets) if isinstance(model, str) else model
        records = [self._there(model, dataset) for model, dataset in zip(models, datasets, strict=True)]
        samples = [self._evidence.shuffled(record) for record in records]
        return fmean(record.value for record in records), np.mean(samples, axis=0)

    def _there(self, model: str, dataset: str) -> ResultRecord:
        record = self.record(model, dataset)
        if record is None:
            raise EvaluationError(
                f"{self.folder}: no zero-shot result of {model} on {dataset}",
                hint="run the experiment to its end; --status says what is left",
            )
        return record


def paired(firsts: Sequence[Number], seconds: Sequence[Number]) -> Difference:
    """Return the mean difference over replicates, with the spread of replicates and of test items in its interval."""
    values = fmean(value for value, _ in firsts), fmean(value for value, _ in seconds)
    difference_SR = np.stack([first - second for (_, first), (_, second) in zip(firsts, seconds, strict=True)])
    sample_R = over_seeds(difference_SR)
    return difference(values, (sample_R, np.zeros_like(sample_R)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One comparison of an arm.

    Attributes:
        by_draw: mean difference in each draw alone.
        values: the difference of each replicate.
        p_holm: p adjusted for the family of the comparison; None outside of one.
    """

    name: str
    found: Difference
    by_draw: list[float]
    values: list[float]
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """``yes``, ``no`` or ``not decided``, by the rule of the plan."""
        decided = self.p_holm is not None and self.p_holm < 0.05
        if decided and min(self.by_draw) > 0:
            return "yes"
        return "no" if decided and self.found.value < 0 else "not decided"


Rivals = Callable[[int], str | Sequence[str]]
"""From a seed to the model that is subtracted, or to one for each dataset."""


def compared(results: Results, arm: Arm, rivals: Rivals, name: str, *, datasets: Sequence[str] = DATASETS) -> Compared:
    """Compare the students of an arm, seed by seed, with a model for each."""
    ours = [results.number(arm.student(seed), datasets) for seed in arm.seeds]
    theirs = [results.number(rivals(seed), datasets) for seed in arm.seeds]
    values = [first - second for (first, _), (second, _) in zip(ours, theirs, strict=True)]
    draws = [draw for draw in DRAWS if any(draw_of(seed) == draw for seed in arm.seeds)]
    return Compared(
        name=name,
        found=paired(ours, theirs),
        by_draw=[
            fmean(value for value, seed in zip(values, arm.seeds, strict=True) if draw_of(seed) == draw)
            for draw in draws
        ],
        values=values,
    )


def adjusted(family: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons of a family with p after Holm's correction."""
    return [
        Compared(name=one.name, found=one.found, by_draw=one.by_draw, values=one.values, p_holm=p)
        for one, p in zip(family, holm([one.found.p for one in family]), strict=True)
    ]


def best_teacher(validation: Results, draw: int) -> str:
    """Return the teacher of a draw with the highest endpoint on the validation splits."""
    return max(teacher_names(draw), key=validation.endpoint)


def best_of_each(validation: Results, draw: int, datasets: Sequence[str] = DATASETS) -> list[str]:
    """Return, for each dataset, the teacher of a draw that is best on its validation split."""
    return [max(teacher_names(draw), key=lambda name: validation.endpoint(name, [one])) for one in datasets]
