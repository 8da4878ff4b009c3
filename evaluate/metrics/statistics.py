"""How sure a number is: resamples of the test items, intervals, paired differences, correction for many tests.

Pure functions of arrays and seeds. docs/statistics.md has the formulas and their sources.

Axes: N test items, G clusters, R resamples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from statsmodels.stats.multitest import multipletests

from store.errors import EvaluationError

from .predictions import Predictions
from .registry import Metric

Mode = Literal["official", "stratified", "cluster", "plain"]
MODES: tuple[Mode, ...] = get_args(Mode)

RESAMPLES = 1000
LEVEL = 0.95
"""Of all intervals; the tests' alpha is the rest to 1."""
OFFICIAL_SEED = 42
"""What MMKD-CLIP's released evaluation draws with, for every dataset and model."""
BLOCK_ENTRIES = 1 << 22
"""Weights of a block: 32 MiB, of which a metric makes a few copies. Larger blocks are no faster."""

Weights = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float64]


@dataclass(kw_only=True, frozen=True, slots=True)
class Resampling:
    """What decides the resamples of a test set; nothing in it depends on the model.

    Attributes:
        resamples: R.
    """

    mode: Mode
    seed: int
    resamples: int = RESAMPLES


@dataclass(kw_only=True, frozen=True, slots=True)
class Interval:
    """A number with its interval.

    Attributes:
        value: on the test set itself; None if it is not defined there.
        low: 2.5th percentile over the resamples; None if no resample defines the metric.
        high: 97.5th percentile.
        failed: number of resamples for which the metric is undefined; the percentiles leave them out.
    """

    value: float | None
    low: float | None
    high: float | None
    resamples: int
    failed: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Difference:
    """A number of one model minus the same of another, on the same resamples.

    Attributes:
        value: on the test set itself.
        low: 2.5th percentile of the differences; None if no resample defines both numbers.
        high: 97.5th percentile.
        p: two-sided, for the hypothesis of no difference; None like low.
        failed: number of resamples that do not define both numbers.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    resamples: int
    failed: int


def resampling_for(mode: Mode, *, split_digest: str, resamples: int = RESAMPLES) -> Resampling:
    """Return the resampling of a test set: the same for every model, another one for every split."""
    seed = OFFICIAL_SEED if mode == "official" else int(hashlib.sha256(split_digest.encode()).hexdigest()[:8], 16)
    return Resampling(mode=mode, seed=seed, resamples=resamples)


def natural_mode(predictions: Predictions) -> Mode:
    """Return the mode that fits a test set: by cluster if items share one, else by class, else plain."""
    if predictions.clusters is not None and len(set(predictions.clusters)) < len(predictions.ids):
        return "cluster"
    return "plain" if predictions.strata is None else "stratified"


def weight_blocks(
    resampling: Resampling, predictions: Predictions, *, entries: int = BLOCK_ENTRIES
) -> Iterator[Weights]:
    """Yield the multiplicity of each test item in each resample, some resamples at a time.

    Neither the block size nor R changes a resample: the first thousand of ten thousand are those of a thousand.

    Args:
        predictions: only ids, clusters and strata are used.
        entries: about how many weights a block has.

    Yields:
        Arrays (r, N) whose rows add up to N (with ``cluster``: whose clusters' multiplicities add up to G).

    Raises:
        EvaluationError: the test set lacks the clusters or classes that the mode needs.
    """
    count = len(predictions.ids)
    generator = np.random.default_rng(resampling.seed)
    draw = _Draw.of(resampling.mode, predictions)
    step = max(1, entries // count)
    for start in range(0, resampling.resamples, step):
        rows = min(step, resampling.resamples - start)
        drawn = draw.official(generator, rows) if resampling.mode == "official" else draw.even(generator, rows)
        offsets = np.arange(rows)[:, None] * draw.things
        counts = np.bincount((drawn + offsets).ravel(), minlength=rows * draw.things)
        weights = counts.reshape(rows, draw.things).astype(np.float64)
        yield weights if draw.thing_of_N is None else weights[:, draw.thing_of_N]


@dataclass(kw_only=True, frozen=True, slots=True)
class _Draw:
    """What is drawn: things (items, or clusters of items) in groups, each thing out of its group.

    Attributes:
        order: numbers of the things, group by group.
        starts: where in order the group of each draw begins.
        sizes: how many things that group has.
        groups: where each group begins in order, and its size.
        thing_of_N: the cluster of each item; None where the things are the items.
    """

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    groups: list[tuple[int, int]]
    thing_of_N: npt.NDArray[np.int64] | None

    @property
    def things(self) -> int:
        return len(self.order)

    @classmethod
    def of(cls, mode: Mode, predictions: Predictions) -> _Draw:
        thing_of_N = None
        keys = np.zeros(len(predictions.ids), dtype=np.int64)
        if mode == "cluster":
            if predictions.clusters is None:
                raise EvaluationError(
                    "a resample by clusters needs the patient, slide or image of each test item, and there are none",
                    hint="use stratified or plain",
                )
            names, thing_of_N = np.unique(np.asarray(predictions.clusters), return_inverse=True)
            keys = np.zeros(len(names), dtype=np.int64)
        elif mode in ("official", "stratified"):
            if predictions.strata is None:
                raise EvaluationError(
                    f"a resample by class ({mode}) needs a class of each test item, and this task has none",
                    hint="use cluster or plain",
                )
            keys = np.unique(predictions.columns[predictions.strata], return_inverse=True)[1]
        order = np.argsort(keys, kind="stable")
        sizes = np.bincount(keys)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        groups = [(int(start), int(size)) for start, size in zip(starts, sizes, strict=True)]
        return cls(
            order=order,
            starts=np.repeat(starts, sizes),
            sizes=np.repeat(sizes, sizes),
            groups=groups,
            thing_of_N=thing_of_N,
        )

    def even(self, generator: np.random.Generator, rows: int) -> npt.NDArray[np.int64]:
        """Draw as many things from each group as it has, with replacement."""
        if len(self.groups) == 1:  # the same as below, several times as fast
            return generator.integers(0, self.things, size=(rows, self.things))
        places = generator.integers(0, self.sizes, size=(rows, self.things))
        drawn: npt.NDArray[np.int64] = self.order[self.starts + places]
        return drawn

    def official(self, generator: np.random.Generator, rows: int) -> npt.NDArray[np.int64]:
        """Draw one thing of each class, then the rest from all of them: the released evaluation's rule."""
        drawn = np.empty((rows, self.things), dtype=np.int64)
        for row in drawn:
            for place, (start, size) in enumerate(self.groups):
                row[place] = self.order[start + generator.integers(0, size)]
            row[len(self.groups) :] = generator.integers(0, self.things, size=self.things - len(self.groups))
        return drawn


def resampled(predictions: Predictions, metrics: Mapping[str, Metric], resampling: Resampling) -> dict[str, Samples]:
    """Return each metric's value on each resample, shape (R,); NaN where it is not defined."""
    found: dict[str, list[Samples]] = {name: [] for name in metrics}
    for weights in weight_blocks(resampling, predictions):
        for name, metric in metrics.items():
            found[name].append(metric(predictions.columns, weights))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval(value: float, samples: Samples) -> Interval:
    """Return a value with the percentile interval of its resamples; those that are not finite count as failed."""
    low, high = _percentiles(samples)
    return Interval(
        value=value if math.isfinite(value) else None,
        low=low,
        high=high,
        resamples=len(samples),
        failed=int(np.sum(~np.isfinite(samples))),
    )


def difference(values: tuple[float, float], samples: tuple[Samples, Samples]) -> Difference:
    """Return how much the first number exceeds the second.

    The p-value inverts the percentile interval: twice the smaller share of resamples on one side of zero, where the
    test set itself counts as one more resample (Davison and Hinkley, 1997, section 4.2).

    Args:
        values: on the test set itself.
        samples: on the same resamples for both.
    """
    differences = samples[0] - samples[1]
    kept = differences[np.isfinite(differences)]
    low, high = _percentiles(differences)
    p = None
    if len(kept):
        sides = np.sum(kept <= 0), np.sum(kept >= 0)
        p = min(1.0, 2 * (1 + int(min(sides))) / (len(kept) + 1))
    return Difference(
        value=values[0] - values[1],
        low=low,
        high=high,
        p=p,
        resamples=len(differences),
        failed=len(differences) - len(kept),
    )


def _percentiles(samples: Samples) -> tuple[float | None, float | None]:
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(kept, [tail, 100 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for there being several of them (Holm, 1979); None is no test and stays None."""
    known = [p for p in p_values if p is not None]
    adjusted = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else float(next(adjusted)) for p in p_values]


def resamples_to_decide(tests: int, *, at_least: int = RESAMPLES) -> int:
    """Return how many resamples let one of several tests be significant after Holm's correction, in whole thousands.

    The smallest p-value of R resamples is 2 / (R + 1). Its adjusted value, times the number of tests, must stay at half
    of alpha or below: with 1,000 resamples no difference on 58 datasets could ever count.
    """
    needed = math.ceil(2 * tests / ((1 - LEVEL) / 2))
    return max(at_least, math.ceil(needed / 1000) * 1000)
