"""Intervals of metrics: Agresti and Coull's with an effective number of items, else the percentile interval.

docs/statistics.md has the formulas, their sources and the coverage that was measured.

Axes: N test items, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from .bootstrap import LEVEL, Interval, Mode, interval
from .predictions import Columns, Predictions, Samples
from .registry import IN_GROUP, OF_SUBGROUP, SUBGROUP

Mask = npt.NDArray[np.bool_]

PROPORTIONS = ("accuracy", "vqa_", "i2t_recall", "t2i_recall", "sensitivity", "specificity")
"""Beginnings of the names of metrics that are a share of items, each of them right or wrong."""
MEANS = ("brier", "ece")
"""Means over items of less than 1 each: an item counts as two at most. Their spread rests on the rarest class too."""
PART_OF: dict[str, tuple[str, bool | None]] = {
    "group_accuracy": ("group", None),
    "vqa_open": ("closed", False),
    "vqa_closed": ("closed", True),
    "sensitivity": ("positive", True),
    "specificity": ("positive", False),
    "ppv": ("flagged", True),
    "npv": ("flagged", False),
}
"""By metric: the column whose values are its parts, and the only value that counts; None for all of them."""
ITEMS_TO_TRUST = {"average_precision": 25, "uno_c": 50, "brier": 15, "i2t_median_rank": 15, "t2i_median_rank": 15}
"""By metric: with fewer independent items of the rarest class (of events) no method reached a coverage of 0.93."""
OTHERS_TO_TRUST = 5
"""The same for all other metrics."""
NEVER_TO_TRUST = {"ece": "is above the truth by chance, and its resamples more so"}
"""Metrics whose intervals failed at every size, with the reason."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Basis:
    """The numbers of items that a metric rests on, by the parts (classes, labels, sides) whose results it averages.

    Attributes:
        items: number of items of each part; of weighted ones the number of equal ones that are worth as much.
        independent: number of clusters of each part, or of items where there are no clusters.
    """

    items: tuple[float, ...]
    independent: tuple[float, ...]

    @property
    def effective(self) -> float:
        """Number of items of equally large parts that would be worth as much: P^2 / sum of 1 / n over P parts."""
        return _worth(self.items)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the variance: the harmonic mean of the independent items of the parts, less one."""
        return max(1.0, _worth(self.independent) / len(self.independent) - 1)

    @property
    def rarest(self) -> float:
        """Independent items of the smallest part."""
        return min(self.independent)


def _worth(counts: tuple[float, ...]) -> float:
    return len(counts) ** 2 / sum(1 / count for count in counts)


def intervals_of(
    values: Mapping[str, float], samples: Mapping[str, Samples], predictions: Predictions, *, mode: Mode
) -> dict[str, Interval]:
    """Return the intervals of metrics from their values on the test set and on its resamples.

    Metrics with a smallest and a largest value have Agresti and Coull's interval. Ranks, and all where class counts are
    held fixed (``stratified``, ``official``), have the percentile interval.

    Args:
        values: by metric.
        samples: by metric, (R,) float64, NaN where a resample does not define it.
        predictions: those of the test set.
        mode: mode of the resamples.
    """
    clusters = None
    if mode == "cluster":
        clusters = np.unique(np.array(predictions.clusters), return_inverse=True)[1]
    seeds = any(name.endswith(".1") for name in predictions.columns)
    found = {}
    for name, value in values.items():
        basis = basis_of(name, predictions.columns, clusters)
        upper = _largest(name, predictions.columns)
        bounded = 0 <= value <= upper < math.inf
        if basis is None or mode in ("stratified", "official") or not bounded or not _any(samples[name]):
            one = interval(value, samples[name])
        else:
            exact = clusters is None and not seeds and name.startswith(PROPORTIONS)
            one = adjusted_interval(value, samples[name], basis, exact=exact, upper=upper)
        found[name] = one.model_copy(update={"caution": caution_of(name, basis)})
    return found


def _any(samples: Samples) -> bool:
    return bool(np.isfinite(samples).any())


def _largest(name: str, columns: Columns) -> float:
    """Return the largest value that a metric can have, infinity where it has none."""
    name = name.partition("[")[0]
    if name.endswith("median_rank"):
        return math.inf
    return 2.0 if name == "brier" and columns["score"].shape[1] > 2 else 1.0


def adjusted_interval(
    value: float, samples: Samples, basis: Basis, *, exact: bool = False, upper: float = 1.0
) -> Interval:
    """Return the interval of Agresti and Coull (1998) of a number between 0 and 1, or another largest value.

    The number of items is that of a share with the same mean squared deviation of its resamples from the value, but at
    most the number that the metric rests on.

    Args:
        exact: the value is a share of independent items, so that their number is known.
        upper: largest value that the number can have; it is taken as a share of it.
    """
    share, kept = value / upper, samples[np.isfinite(samples)] / upper
    squared = float(np.mean((kept - share) ** 2))
    spread = share * (1 - share)
    items, quantile = basis.effective, float(ndtri((1 + LEVEL) / 2))
    if not exact:
        quantile = float(stdtrit(basis.degrees, (1 + LEVEL) / 2))
        items = min(items, spread / squared) if squared > 0 and spread > 0 else _worth(basis.independent)
    turn = quantile**2 / items
    centre = (share + turn / 2) / (1 + turn)
    half = quantile * math.sqrt(centre * (1 - centre) / (items * (1 + turn)))
    return Interval(
        value=value,
        low=max(0.0, min(value, upper * (centre - half))),
        high=min(upper, max(value, upper * (centre + half))),
        resamples=len(samples),
        failed=len(samples) - len(kept),
        method="agresti_coull" if exact else "effective_agresti_coull",
    )


def caution_of(name: str, basis: Basis | None) -> str | None:
    """Return why an interval is not to be trusted at this size; None where its coverage was measured as enough."""
    name = name.partition("[")[0]  # of a subgroup: the metric
    if name in NEVER_TO_TRUST:
        return NEVER_TO_TRUST[name]
    least = ITEMS_TO_TRUST.get(name, OTHERS_TO_TRUST)
    if basis is None or basis.rarest >= least:
        return None
    return f"rests on {basis.rarest:.0f} independent items of the rarest kind, fewer than {least}"


def basis_of(name: str, columns: Columns, clusters: npt.NDArray[np.int64] | None) -> Basis | None:
    """Return what a metric rests on; None where no item counts.

    Args:
        clusters: (N,) number of each item's cluster; None where items are independent.
    """
    subgroup = OF_SUBGROUP.match(name)
    if subgroup is not None:
        inside_N = columns[SUBGROUP + subgroup["column"]] == subgroup["value"]
        inside = {column: values[inside_N] for column, values in columns.items()}
        return basis_of(subgroup["metric"], inside, None if clusters is None else clusters[inside_N])
    parts = [part for part in _parts(name, columns) if part.any()]
    if not parts:
        return None
    items = [float(part.sum()) for part in parts]
    independent = items if clusters is None else [float(len(np.unique(clusters[part]))) for part in parts]
    if name in MEANS:
        items = [2 * sum(items)]
    if name == "uno_c":
        # Late events weigh much more than early ones: Kish's number of equal weights. Events are the last part.
        weight = columns["uno_weight"][columns["event"] > 0]
        events = float(weight.sum() ** 2 / np.sum(weight**2)) if weight.any() else 1.0
        items, independent = [*items[:-1], events], [*independent[:-1], min(events, independent[-1])]
    return Basis(items=tuple(items), independent=tuple(independent))


def _parts(name: str, columns: Columns) -> list[Mask]:
    """Return the items of each part whose results a metric averages."""
    all_N = np.ones(len(next(iter(columns.values()))), bool)
    by, wanted = _split_by(name, columns)
    if by is not None:
        return [columns[by] == value for value in (np.unique(columns[by]) if wanted is None else [wanted])]
    target = columns.get("target", all_N)
    if target.ndim == 2 and name == "label_accuracy":
        return [all_N] * target.shape[1]
    if target.ndim == 2:
        mixed = [label > 0 for label in target.T if 0 < (label > 0).sum() < len(label)]
        return [*mixed, *(~part for part in mixed)]
    return [all_N]


def _split_by(name: str, columns: Columns) -> tuple[str | None, Any]:
    """Return the column whose values are the parts of a metric, and the value of the only part that counts, if any."""
    if "side" in columns:
        return "side", {"i2t": 0, "t2i": 1}.get(name[:3])
    if "event" in columns:
        return "event", None
    if name in PART_OF:
        return PART_OF[name]
    if name.startswith(IN_GROUP):
        return "group", name.removeprefix(IN_GROUP)
    one_part = name.startswith(PROPORTIONS) or getattr(columns.get("target"), "ndim", 0) != 1
    return (None if one_part else "target"), None
