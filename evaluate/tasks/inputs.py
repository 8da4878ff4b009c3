"""Inputs of tasks and their common checks: bad input would give wrong numbers without an error.

Axes: N items, D feature width, P patches of a bag, C labels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import SUBGROUP
from store.errors import EvaluationError

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(kw_only=True, frozen=True, slots=True)
class LabelledFeatures:
    """A split of items with one feature each.

    Attributes:
        ids: N names.
        features: (N, D); for items of several patches a list of N arrays (P, D), each with its own P.
        target: (N,) class numbers from 0; for several labels (N, C) of 0 and 1.
        clusters: the patient, slide or image that each item belongs to; None if that is not known.
        subgroups: by name of a column, such as ``sex``, the value of each of N items.
    """

    ids: Sequence[str]
    features: Array | Sequence[Array]
    target: Array
    clusters: Sequence[str] | None = None
    subgroups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that everything has the same length."""
        lengths = {"ids": len(self.ids), "features": len(self.features), "target": len(self.target)}
        if self.clusters is not None:
            lengths["clusters"] = len(self.clusters)
        lengths |= {name: len(values) for name, values in self.subgroups.items()}
        if len(set(lengths.values())) > 1:
            raise EvaluationError(f"the parts of a split differ in length: {lengths}")

    def predictions(self, columns: dict[str, Array], *, strata: str | None = None) -> Predictions:
        """Return predictions of these items, with the columns of their subgroups."""
        clusters = None if self.clusters is None else list(self.clusters)
        parts = {f"{SUBGROUP}{name}": np.asarray(values) for name, values in self.subgroups.items()}
        return Predictions(ids=list(self.ids), clusters=clusters, columns=columns | parts, strata=strata)

    def take(self, rows: Array) -> LabelledFeatures:
        """Return some of the items."""
        features = self.features[rows] if isinstance(self.features, np.ndarray) else [self.features[r] for r in rows]
        return LabelledFeatures(
            ids=[self.ids[row] for row in rows],
            features=features,
            target=self.target[rows],
            clusters=None if self.clusters is None else [self.clusters[row] for row in rows],
            subgroups={name: [values[row] for row in rows] for name, values in self.subgroups.items()},
        )


def check_features(features_ND: Array, *, what: str) -> None:
    """Raise EvaluationError unless features are a matrix with rows, all of them finite."""
    if features_ND.ndim != 2 or not features_ND.size:
        raise EvaluationError(f"{what}: a matrix (items, width) is expected, not the shape {features_ND.shape}")
    bad = np.flatnonzero(~np.isfinite(features_ND).all(axis=1))
    if len(bad):
        raise EvaluationError(
            f"{what}: {len(bad)} of {len(features_ND)} rows have values that are not finite, the first is row {bad[0]}"
        )


def unit_norm(features_ND: Array, *, what: str, dtype: npt.DTypeLike = np.float32) -> Array:
    """Return rows of length 1; raise EvaluationError unless they are a finite matrix without a row of zeros."""
    if features_ND.ndim != 2 or not features_ND.size:
        check_features(features_ND, what=what)
    unit_ND = features_ND.astype(dtype)
    length_N = np.sqrt(np.einsum("nd,nd->n", unit_ND, unit_ND))
    if not np.isfinite(length_N).all():  # checking the lengths is much cheaper than checking every value
        check_features(features_ND, what=what)
        raise EvaluationError(f"{what}: values are too large for {np.dtype(dtype)}: {np.abs(features_ND).max():g}")
    zero = np.flatnonzero(length_N == 0)
    if len(zero):
        raise EvaluationError(
            f"{what}: {len(zero)} of {len(unit_ND)} rows are zero, the first is row {zero[0]}",
            hint="rows of zeros stand for images that could not be read; leave those items out",
        )
    unit_ND /= length_N[:, None]
    return np.asarray(unit_ND)


def check_bags(bags: Sequence[Array], *, what: str) -> int:
    """Return the width of bags; raise EvaluationError unless every bag has patches, all of one width and finite."""
    if not len(bags):
        raise EvaluationError(f"{what}: there is no bag")
    widths = set()
    for number, bag_PD in enumerate(bags):
        if bag_PD.ndim != 2 or not len(bag_PD):
            raise EvaluationError(f"{what}: bag {number} has no patch (its shape is {bag_PD.shape})")
        if not np.isfinite(bag_PD).all():
            raise EvaluationError(f"{what}: bag {number} has values that are not finite")
        widths.add(bag_PD.shape[1])
    if len(widths) > 1:
        raise EvaluationError(f"{what}: bags differ in the width of their features: {sorted(widths)}")
    return int(widths.pop())


def check_target(target_N: Array, classes: Sequence[str], *, what: str, several: bool = True) -> list[str]:
    """Check that every label is one of the dataset's classes, and return the classes that no item has.

    Args:
        classes: names, as the dataset's entry lists them; never taken from the labels.
        several: require at least two classes.

    Raises:
        EvaluationError: a label is outside the list, or only one class is there.
    """
    if not len(target_N):
        raise EvaluationError(f"the {what} split is empty")
    if not np.issubdtype(target_N.dtype, np.integer):
        raise EvaluationError(f"the {what} split's labels must be class numbers, not {target_N.dtype}")
    outside = Counter(int(label) for label in target_N if not 0 <= label < len(classes))
    if outside:
        raise EvaluationError(
            f"the {what} split has labels outside the {len(classes)} classes that the dataset lists: {dict(outside)}"
        )
    there = np.unique(target_N)
    if several and len(there) < 2:
        raise EvaluationError(
            f"all {len(target_N)} items of the {what} split are of one class, {classes[there[0]]!r}; "
            "a classification needs two"
        )
    missing = [name for number, name in enumerate(classes) if number not in set(there.tolist())]
    if missing:
        log.warning("no item of the %s split is of %s", what, ", ".join(missing))
    return missing


def check_labels(target_NC: Array, labels: Sequence[str], *, what: str) -> list[str]:
    """Check targets of several labels, and return the labels that all items of the split have or none has.

    Raises:
        EvaluationError: there is no item, targets are not 0 and 1, or every label is the same for all items.
    """
    if not len(target_NC):
        raise EvaluationError(f"the {what} split is empty")
    if target_NC.shape[1:] != (len(labels),) or not np.isin(target_NC, (0, 1)).all():
        raise EvaluationError(
            f"the {what} split: targets must be 0 or 1, {len(labels)} to an item; their shape is {target_NC.shape}"
        )
    have_C = target_NC.sum(axis=0)
    constant = [name for name, have in zip(labels, have_C, strict=True) if have in (0, len(target_NC))]
    if len(constant) == len(labels):
        raise EvaluationError(
            f"the {what} split: every label is the same for all {len(target_NC)} items: there is nothing to tell apart"
        )
    if constant:
        log.warning("labels that all items of the %s split have or none has: %s", what, ", ".join(constant))
    return constant


def check_disjoint(
    splits: Mapping[str, Sequence[str] | None], *, what: str = "groups", allow_shared: bool = False
) -> dict[str, int]:
    """Check that no patient (slide, image) is in two splits; return how many each two share, where told to allow it.

    Args:
        splits: groups by split; None if they are not known.
        allow_shared: do not refuse, only count.

    Raises:
        EvaluationError: two splits share some.
    """
    known = {name: set(groups) for name, groups in splits.items() if groups is not None}
    names = sorted(known)
    shared = {
        f"{first} and {second}": len(known[first] & known[second])
        for place, first in enumerate(names)
        for second in names[place + 1 :]
        if known[first] & known[second]
    }
    if shared and not allow_shared:
        found = "; ".join(f"{count} {what} are in both {which}" for which, count in shared.items())
        raise EvaluationError(
            f"{found}: the result would say how well they are remembered",
            hint="split by patient, or allow it if that is the published split",
        )
    for which, count in shared.items():
        log.warning("%d %s are in both %s; this was allowed", count, what, which)
    return shared
