"""The threshold above which an item counts as positive, chosen on validation items.

Axes: N validation items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from evaluate.tasks.inputs import Array
from store.errors import EvaluationError


@dataclass(kw_only=True, frozen=True, slots=True)
class Deciding:
    """The rule by which decisions of two classes are made and judged.

    Attributes:
        sensitivity: what the threshold must reach on validation; None takes the largest sum of sensitivity and
            specificity (Youden 1950).
        prevalence: share of positives for which predictive values are computed; None takes that of the test items.
    """

    sensitivity: float | None = None
    prevalence: float | None = None

    def __post_init__(self) -> None:
        """Check that both are shares."""
        for name in ("sensitivity", "prevalence"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise EvaluationError(f"{name}: expected a share above 0 and below 1, not {value}")


@dataclass(kw_only=True, frozen=True, slots=True)
class Validation:
    """Validation items of one model.

    Attributes:
        margin: (N,), by how much the positive class scores more, as in the predictions.
        positive: (N,), whether the item is positive.
    """

    margin: Array
    positive: Array


def threshold_of(margin_N: Array, positive_N: Array, *, sensitivity: float | None) -> float | None:
    """Return the smallest margin that counts as positive; None where the items do not have both classes.

    It lies halfway between two neighbouring margins, so that an item close to one of them is not decided by rounding.

    Args:
        sensitivity: at least this share of the positives is to be flagged, by the largest such threshold; None takes
            the threshold of the largest sum of sensitivity and specificity, of equals the one nearest to 0.
    """
    positive_N = np.asarray(positive_N, bool)
    if positive_N.all() or not positive_N.any():
        return None
    values = np.unique(margin_N)
    between = (values[1:] + values[:-1]) / 2
    candidates = np.concatenate([[values[0]], between, [np.nextafter(values[-1], np.inf)]])
    flagged = _share_from(margin_N[positive_N], candidates)
    if sensitivity is not None:
        return float(candidates[np.flatnonzero(flagged >= sensitivity - 1e-12)[-1]])
    youden = flagged - _share_from(margin_N[~positive_N], candidates)
    best = candidates[youden >= youden.max() - 1e-12]
    return float(best[np.abs(best).argmin()])


def _share_from(margin_N: Array, candidates: Array) -> npt.NDArray[np.float64]:
    """Return for every candidate the share of items whose margin is at least that."""
    ordered = np.sort(margin_N)
    return np.asarray(1 - np.searchsorted(ordered, candidates, side="left") / len(ordered), np.float64)


def decide(
    margins: Sequence[Array], validation: Sequence[Validation], deciding: Deciding
) -> tuple[list[Array], dict[str, Any]]:
    """Return by seed which test items are flagged, and what a record says of the thresholds.

    Args:
        margins: by seed, those of the test items.
        validation: by seed; empty without a validation split, then an item is flagged where the positive class scores
            more.
    """
    found = [threshold_of(one.margin, one.positive, sensitivity=deciding.sensitivity) for one in validation]
    chosen = [0.0 if value is None else value for value in found] or [0.0] * len(margins)
    rule = "Youden's J" if deciding.sensitivity is None else f"sensitivity {deciding.sensitivity:g}"
    defined = sum(value is not None for value in found)
    by = f"{rule} on validation" if defined == len(margins) else "the class that scores more"
    if 0 < defined < len(margins):
        by = f"{rule} on validation; without both classes there, the class that scores more"
    said = {
        "by": by,
        "margin": chosen,
        "probability": [float(value) for value in expit(chosen)],
        "num_val": [len(one.margin) for one in validation],
    }
    flags = [np.asarray(margin >= value) for margin, value in zip(margins, chosen, strict=True)]
    return flags, {"threshold": said, "prevalence": _prevalence(deciding)}


def _prevalence(deciding: Deciding) -> dict[str, Any]:
    stated = deciding.prevalence is not None
    return {"value": deciding.prevalence, "by": "the dataset's entry" if stated else "the share of the test items"}
