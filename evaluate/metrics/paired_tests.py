"""Paired tests: is one model better than another, on one dataset and over several?

Pure functions of arrays. docs/statistics.md has the formulas and their sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from .bootstrap import LEVEL, RESAMPLES, percentiles
from .predictions import Samples

FEWEST_DATASETS = 2
"""Ranks on one dataset are an order and no statistic."""


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


def difference(values: tuple[float, float], samples: tuple[Samples, Samples]) -> Difference:
    """Return how much the first number exceeds the second: on the test set itself, and on the same resamples.

    The p-value inverts the percentile interval: twice the smaller share of resamples on one side of zero, where the
    test set itself counts as one more resample (Davison and Hinkley, 1997, section 4.2).
    """
    differences = samples[0] - samples[1]
    kept = differences[np.isfinite(differences)]
    low, high = percentiles(differences)
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


def one_sided_p(differences: Samples, *, above: float) -> float:
    """Return the p-value for a difference of at most a limit: the share of resamples that do not exceed it.

    The test set itself counts as one more resample. It is 1 where no resample defines the difference.
    """
    kept = differences[np.isfinite(differences)]
    return (1 + int(np.sum(kept <= above))) / (len(kept) + 1)


def over_seeds(samples_SR: npt.NDArray[np.float64]) -> Samples:
    """Return the mean of S training seeds on each resample of the items, with the spread of the seeds added.

    Resampling a few seeds would understate their spread: S = 3 has ten distinct draws. So the deviations of the seeds
    get normal weights (a multiplier bootstrap), scaled so that without any spread of the items the sum follows
    Student's t with S - 1 degrees of freedom. Every call draws the same weights, so that the seeds of several test sets
    go together. One seed adds nothing.

    Args:
        samples_SR: (S, R), a metric with each training seed on each resample.
    """
    seeds, resamples = samples_SR.shape
    mean_R = samples_SR.mean(axis=0)
    if seeds == 1:
        return np.asarray(mean_R)
    generator = np.random.default_rng(0)
    weight_SR = generator.standard_normal((resamples, seeds)).T
    chi_R = np.sqrt(generator.chisquare(seeds - 1, resamples) / (seeds - 1))
    spread_R = np.sum(weight_SR * (samples_SR - mean_R), axis=0) / math.sqrt(seeds * (seeds - 1))
    return np.asarray(mean_R + spread_R / chi_R)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for there being several of them (Holm, 1979); None is no test and stays None."""
    known = np.array([p for p in p_values if p is not None], dtype=np.float64)
    order = np.argsort(known, kind="stable")
    # Ascending, the smallest of m times m, the next times m - 1; none may be below the one before.
    steps = np.minimum(1, np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)))
    adjusted = iter(steps[np.argsort(order)].tolist())
    return [None if p is None else float(next(adjusted)) for p in p_values]


def resamples_to_decide(tests: int, *, at_least: int = RESAMPLES) -> int:
    """Return how many resamples let one of several tests be significant after Holm's correction, in whole thousands.

    The smallest p-value of R resamples is 2 / (R + 1). Its adjusted value, times the number of tests, must stay at half
    of alpha or below: with 1,000 resamples no difference on 58 datasets could ever count.
    """
    needed = math.ceil(2 * tests / ((1 - LEVEL) / 2))
    return max(at_least, math.ceil(needed / 1000) * 1000)


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test over datasets; None where no difference is left.

    Differences of zero share their ranks between both sides (Pratt), so that ties speak for no difference.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < FEWEST_DATASETS or not values.any():
        return None
    return float(stats.wilcoxon(values, zero_method="pratt", method="auto").pvalue)
