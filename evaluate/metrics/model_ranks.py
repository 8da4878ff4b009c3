"""Ranks of many models over many datasets, and whether they differ.

Pure functions of arrays. The Friedman test, and Nemenyi's critical difference after it, are those that Demšar (2006,
JMLR 7, section 3.2) recommends; docs/statistics.md has the formulas.

Axes: D datasets, K models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from .bootstrap import LEVEL
from .paired_tests import FEWEST_DATASETS


@dataclass(kw_only=True, frozen=True, slots=True)
class Ranking:
    """Ranks of models over the datasets that all of them have.

    Attributes:
        models: best first.
        mean_ranks: 1 is the best.
        datasets: their number, D.
        statistic: Friedman's chi-squared, corrected for ties; None for less than three models or two datasets.
        p: of the hypothesis that the models are equal; None like statistic.
        critical_difference: Nemenyi's; models whose mean ranks differ by less are not told apart. None for less than
            two datasets.
        groups: the largest sets of neighbouring models that are not told apart, as first and last place.
    """

    models: list[str]
    mean_ranks: list[float]
    datasets: int
    statistic: float | None
    p: float | None
    critical_difference: float | None
    groups: list[tuple[int, int]]


def ranks(scores_DK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each model's rank on each dataset: 1 for the largest score, the mean of the places for equal ones."""
    return np.asarray(stats.rankdata(-scores_DK, axis=1), dtype=np.float64)


def rank_models(models: Sequence[str], scores_DK: npt.NDArray[np.float64]) -> Ranking:
    """Rank K models by their scores, finite and more is better, and test whether they differ."""
    datasets, count = scores_DK.shape
    means = ranks(scores_DK).mean(axis=0)
    order = np.argsort(means, kind="stable")
    statistic = p = critical = None
    if datasets >= FEWEST_DATASETS and count >= 2:
        critical = critical_difference(count, datasets)
        if count > 2 and np.ptp(scores_DK, axis=1).any():  # where all scores are equal there is nothing to divide by
            statistic, p = (float(number) for number in stats.friedmanchisquare(*scores_DK.T))
    sorted_means = [float(mean) for mean in means[order]]
    return Ranking(
        models=[models[place] for place in order],
        mean_ranks=sorted_means,
        datasets=datasets,
        statistic=statistic,
        p=p,
        critical_difference=critical,
        groups=_groups(sorted_means, critical),
    )


def critical_difference(models: int, datasets: int) -> float:
    """Return Nemenyi's critical difference of mean ranks: q / sqrt(2) * sqrt(K (K + 1) / (6 D)).

    q is the quantile of the studentized range of K means with infinitely many degrees of freedom.
    """
    quantile = float(stats.studentized_range.ppf(LEVEL, models, np.inf))
    return quantile / math.sqrt(2) * math.sqrt(models * (models + 1) / (6 * datasets))


def _groups(means: Sequence[float], critical: float | None) -> list[tuple[int, int]]:
    if critical is None:
        return []
    found: list[tuple[int, int]] = []
    for first, mean in enumerate(means):
        last = max(place for place, other in enumerate(means) if other - mean < critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
