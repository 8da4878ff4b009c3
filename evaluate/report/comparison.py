"""Two models on the test sets that both were evaluated on: paired differences and their means.

Axes: D datasets, R resamples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from evaluate.metrics.bootstrap import LEVEL, Interval, resampled
from evaluate.metrics.paired_tests import Difference, difference, holm, resamples_to_decide, signed_rank_p
from evaluate.metrics.predictions import Predictions, Samples
from evaluate.metrics.registry import METRICS
from evaluate.results.files import read_predictions
from evaluate.results.record import DIGEST_SHOWN, Result, ResultRecord
from store.errors import EvaluationError

Verdict = Literal["better", "worse", "undecided"]
FEW_ITEMS = re.compile(r"_\d+(\.\d+)?(pct|shot)$")
TestSet = tuple[str, str]
"""Task and dataset."""


class NothingSharedError(EvaluationError):
    """Models have no test set on which they can be compared."""


@dataclass(kw_only=True, frozen=True, slots=True)
class DatasetDifference:
    """The difference of two models on one test set.

    Attributes:
        first, second: their numbers, each with its own interval.
        difference: positive if the first model is better, also where less is better.
        p_holm: the difference's p, adjusted for all tests of the comparison.
        verdict: of the first model, by p_holm; undecided where an interval of one of them is not to be trusted.
    """

    task: str
    dataset: str
    title: str
    modality: str
    metric: str
    n: int
    split_digest: str
    first: Interval
    second: Interval
    difference: Difference
    p_holm: float | None = None
    verdict: Verdict = "undecided"


@dataclass(kw_only=True, frozen=True, slots=True)
class Comparison:
    """Two models on all test sets that they share.

    Attributes:
        declared: whether the test sets, over which Holm's correction goes, were named beforehand; else they are all
            that both models share.
        means: by task, the mean difference over its datasets.
        macro: the mean difference over all test sets of tasks that use all their training items, where more is better;
            None if there is none.
        signed_rank_p: by task, p of Wilcoxon's test over its datasets; None if there are too few.
        left_out: test sets that only one model has or that cannot be compared, with the reason.
    """

    first: str
    second: str
    rows: list[DatasetDifference]
    means: dict[str, Difference]
    macro: Difference | None
    signed_rank_p: dict[str, float | None]
    left_out: list[str]
    declared: bool = False

    def count(self, verdict: Verdict) -> int:
        """Return on how many test sets the first model is better, worse or undecided."""
        return sum(row.verdict == verdict for row in self.rows)


class Evidence:
    """The primary metric of results on their resamples; each is computed once.

    Args:
        resamples: number of resamples of each test set, in place of the number in its record.
        done: called after each result, for progress.
        read: returns the predictions of a record in the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resamples: int,
        done: Callable[[int], None] | None = None,
        read: Callable[[Path, ResultRecord], Predictions] = read_predictions,
    ) -> None:
        self.folder = folder
        self._read = read
        self.resamples = resamples
        self._done = done or (lambda _count: None)
        self._kept: dict[tuple[str, str, str], tuple[Samples, tuple[str, ...]]] = {}

    def samples(self, record: ResultRecord) -> Samples:
        """Return the primary metric on each resample, shape (R,)."""
        return self._of(record)[0]

    def items(self, record: ResultRecord) -> tuple[str, ...]:
        """Return the names of the test items, in order."""
        return self._of(record)[1]

    def shuffled(self, record: ResultRecord) -> Samples:
        """Return the same values in an order that depends on the split alone.

        ``official`` draws with one seed for all datasets, so that resamples of different datasets are paired. Averages
        over datasets need independent ones.
        """
        samples = self.samples(record)
        order = np.random.default_rng(list(record.split_digest.encode())).permutation(len(samples))
        return samples[order]

    def _of(self, record: ResultRecord) -> tuple[Samples, tuple[str, ...]]:
        key = record.model.name, record.task, record.dataset.name
        if key not in self._kept:
            predictions = self._read(self.folder, record)
            resampling = record.bootstrap.model_copy(update={"resamples": self.resamples})
            values = resampled(predictions, {record.primary: METRICS[record.primary]}, resampling)
            self._kept[key] = values[record.primary], tuple(predictions.ids)
            self._done(1)
        return self._kept[key]


def few_items(task: str) -> bool:
    """Return whether a task is a probe that is trained on a part of the training items."""
    return FEW_ITEMS.search(task) is not None


def of_model(results: Sequence[Result], name: str) -> dict[tuple[str, str], Result]:
    """Return a model's results by task and dataset; raise EvaluationError if there is none."""
    found = {(result.task, result.dataset.name): result for result in results if result.model.name == name}
    if not found:
        known = ", ".join(sorted({result.model.name for result in results}))
        raise EvaluationError(f"no result is of a model {name!r}", hint=f"there are {known}")
    return found


def shared(first: Mapping[tuple[str, str], Result], second: Mapping[tuple[str, str], Result]) -> int:
    """Return how many test sets both models have a result on."""
    both = [(first[key], second[key]) for key in first.keys() & second.keys()]
    return sum(isinstance(one, ResultRecord) and isinstance(other, ResultRecord) for one, other in both)


def enough_resamples(results: Sequence[Result], tests: int) -> int:
    """Return how many resamples a comparison of so many tests takes: no fewer than the records have."""
    recorded = [result.bootstrap.resamples for result in results if isinstance(result, ResultRecord)]
    return resamples_to_decide(tests, at_least=max(recorded, default=1))


def compare(
    results: Sequence[Result],
    first: str,
    second: str,
    *,
    evidence: Evidence,
    family: Sequence[TestSet] | None = None,
) -> Comparison:
    """Compare two models.

    Args:
        family: the test sets of the comparison, named before their results were seen; those that cannot be compared
            count in Holm's correction too. All that both models share if None.

    Raises:
        EvaluationError: one of the models has no result.
        NothingSharedError: there is no test set on which they can be compared.
    """
    ours, theirs = of_model(results, first), of_model(results, second)
    rows, left_out = [], []
    pairs: list[tuple[ResultRecord, ResultRecord]] = []
    for key in dict.fromkeys(family) if family else sorted({*ours, *theirs}):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, ResultRecord) and isinstance(other, ResultRecord):
            why = incomparable(one, other, evidence)
            if why is None:
                pairs.append((one, other))
                rows.append(_row(one, other, evidence))
                continue
        else:
            why = absent({first: one, second: other})
        left_out.append(f"{' '.join(key)}: {why}")
    if not rows:
        raise NothingSharedError(f"{first} and {second} share no test set: {'; '.join(left_out)}")
    by_task: dict[str, list[tuple[ResultRecord, ResultRecord]]] = {}
    for one, other in pairs:
        by_task.setdefault(one.task, []).append((one, other))
    whole = [(one, other) for one, other in pairs if not few_items(one.task) and _sign(one) > 0]
    missing = [1.0] * (len(left_out) if family else 0)
    adjusted = holm([*(row.difference.p for row in rows), *missing])
    return Comparison(
        first=first,
        second=second,
        rows=[_judged(row, p) for row, p in zip(rows, adjusted, strict=False)],
        means={task: _mean(of_task, evidence) for task, of_task in by_task.items()},
        macro=_mean(whole, evidence) if whole else None,
        signed_rank_p={
            task: signed_rank_p([row.difference.value for row in rows if row.task == task]) for task in by_task
        },
        left_out=left_out,
        declared=bool(family),
    )


def incomparable(one: ResultRecord, other: ResultRecord, evidence: Evidence) -> str | None:
    """Return why two results on one test set cannot be compared; None if they can."""
    if one.split_digest != other.split_digest:
        return "evaluated on different splits"
    if one.protocol != other.protocol:
        return f"evaluated differently: {_shown(one, other)} and {_shown(other, one)}"
    if one.primary != other.primary:
        return f"one has {one.primary}, the other {other.primary}"
    if (one.bootstrap.mode, one.bootstrap.seed) != (other.bootstrap.mode, other.bootstrap.seed):
        return f"resampled differently ({one.bootstrap.mode} and {other.bootstrap.mode})"
    if evidence.items(one) != evidence.items(other):
        return f"evaluated on different test items ({one.n} and {other.n})"
    return None


def _shown(one: ResultRecord, other: ResultRecord) -> str:
    """Return the parts of a protocol that the other lacks, with short digests."""
    parts = (part.partition(" ") for part in one.protocol if part not in other.protocol)
    return ", ".join(kind + sign + rest[:DIGEST_SHOWN] for kind, sign, rest in parts) or "without it"


def absent(found: Mapping[str, Result | None]) -> str:
    """Return which models have no result, and why."""
    reasons = []
    for name, result in found.items():
        if result is None:
            reasons.append(f"{name} was not evaluated")
        elif not isinstance(result, ResultRecord):
            reasons.append(f"{name} was skipped ({result.skipped})")
    return ", ".join(reasons)


def _sign(record: ResultRecord) -> int:
    return 1 if METRICS[record.primary].higher_is_better else -1


def _row(one: ResultRecord, other: ResultRecord, evidence: Evidence) -> DatasetDifference:
    sign = _sign(one)
    values = sign * one.value, sign * other.value
    return DatasetDifference(
        task=one.task,
        dataset=one.dataset.name,
        title=one.dataset.title,
        modality=one.dataset.modality,
        metric=one.primary,
        n=one.n,
        split_digest=one.split_digest,
        first=one.metrics[one.primary],
        second=other.metrics[other.primary],
        difference=difference(values, (sign * evidence.samples(one), sign * evidence.samples(other))),
    )


def _judged(row: DatasetDifference, p_holm: float | None) -> DatasetDifference:
    verdict: Verdict = "undecided"
    trusted = not (row.first.caution or row.second.caution)
    if trusted and p_holm is not None and p_holm < 1 - LEVEL:
        verdict = "better" if row.difference.value > 0 else "worse"
    return replace(row, p_holm=p_holm, verdict=verdict)


def _mean(pairs: Sequence[tuple[ResultRecord, ResultRecord]], evidence: Evidence) -> Difference:
    """Return the mean difference over datasets, each of the same weight."""
    sides = list(zip(*pairs, strict=True))
    values = [float(np.mean([_sign(record) * record.value for record in side])) for side in sides]
    samples = [np.mean([_sign(record) * evidence.shuffled(record) for record in side], axis=0) for side in sides]
    return difference((values[0], values[1]), (samples[0], samples[1]))
