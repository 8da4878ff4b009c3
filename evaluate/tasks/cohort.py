"""Patients with survival times: checks, several slides of one patient, and folds.

Axes: N patients, P patches of a bag, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from evaluate.tasks.fitting.tables import Rows, Table
from store.errors import EvaluationError

from .inputs import Array, check_bags, check_features

Fold = tuple[Rows, Rows]
"""Training and test patients."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Cohort:
    """Patients, each once.

    Attributes:
        features: (N, D), or N bags (P, D) of patch features, or a table of N patients.
        time: (N,) until the event or the end of observation, in any unit.
        event: (N,) 1 where the event was seen, 0 where the patient was censored.
        sites: N hospitals, or None; folds then keep each whole, so that a model cannot recognize one.
        subgroups: by name of a column, the value of each of N patients.
    """

    ids: Sequence[str]
    features: Array | Sequence[Array] | Table
    time: Array
    event: Array
    sites: Sequence[str] | None = None
    subgroups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that survival can be predicted for them."""
        lengths = {name: len(getattr(self, name)) for name in ("ids", "features", "time", "event")}
        if self.sites is not None:
            lengths["sites"] = len(self.sites)
        if len(set(lengths.values())) > 1:
            raise EvaluationError(f"the parts of a cohort differ in length: {lengths}")
        if not len(self.ids):
            raise EvaluationError("the cohort has no patient")
        if len(set(self.ids)) < len(self.ids):
            raise EvaluationError(
                f"{len(self.ids) - len(set(self.ids))} patients are there more than once",
                hint="put the slides of a patient together with by_patient",
            )
        if isinstance(self.features, np.ndarray):
            check_features(self.features, what="features")
        elif isinstance(self.features, Table):
            if np.isinf(self.features.numbers).any():
                raise EvaluationError(f"features: {np.isinf(self.features.numbers).sum()} values are not finite")
        else:
            check_bags(self.features, what="features")
        bad = np.flatnonzero(~(np.isfinite(self.time) & (np.asarray(self.time) >= 0)))
        if len(bad):
            raise EvaluationError(
                f"{len(bad)} survival times are negative or not finite, first of {self.ids[bad[0]]!r}"
            )
        if not np.isin(self.event, (0, 1)).all():
            raise EvaluationError(f"events must be 0 or 1, not {sorted(set(np.asarray(self.event).tolist()))[:5]}")
        if not np.any(self.event):
            raise EvaluationError(f"all {len(self.ids)} patients are censored: there is no event to predict")

    def bags(self, train: Rows) -> list[Array]:
        """Return one bag (P, D) per patient; a single feature is a bag of one patch.

        Args:
            train: the training patients, which say how a table becomes numbers.
        """
        parts = self.features.encoded(train) if isinstance(self.features, Table) else self.features
        return [own[None] if own.ndim == 1 else own for own in parts]

    def pooled(self, train: Rows) -> npt.NDArray[np.float64]:
        """Return one feature per patient, (N, D): the mean of its bag."""
        return np.stack([np.asarray(bag, np.float64).mean(axis=0) for bag in self.bags(train)])


def by_patient(
    slides: Sequence[Array] | Table,
    *,
    patients: Sequence[str],
    time: Array,
    event: Array,
    sites: Sequence[str] | None = None,
    subgroups: Mapping[str, Sequence[str]] | None = None,
) -> Cohort:
    """Put the slides, or the rows of a table, of each patient into one bag.

    Args:
        slides: one bag (P, D) each, or a table with a row each; the other arguments have one value per slide.

    Raises:
        EvaluationError: slides of one patient disagree about time, event, site or subgroup.
    """
    own: dict[str, list[int]] = {}
    for number, patient in enumerate(patients):
        own.setdefault(patient, []).append(number)
    further = [*([] if sites is None else [sites]), *(subgroups or {}).values()]
    for patient, numbers in own.items():
        said = {(float(time[n]), int(event[n]), *(column[n] for column in further)) for n in numbers}
        if len(said) > 1:
            raise EvaluationError(
                f"the slides of patient {patient!r} disagree about time, event, site or subgroup: {said}"
            )
    first = np.array([numbers[0] for numbers in own.values()])
    if isinstance(slides, Table):
        joined: list[Array] | Table = slides.joined(list(own.values()))
    else:
        joined = [np.concatenate([slides[n] for n in numbers]) for numbers in own.values()]
    return Cohort(
        ids=list(own),
        features=joined,
        time=time[first],
        event=event[first],
        sites=None if sites is None else [sites[n] for n in first],
        subgroups={name: [values[n] for n in first] for name, values in (subgroups or {}).items()},
    )


def survival_folds(cohort: Cohort, *, folds: int, seed: int) -> list[Fold]:
    """Return training and test patients of every fold, events spread evenly, sites kept whole where known.

    Raises:
        EvaluationError: there are fewer events or sites than folds.
    """
    event_N = np.asarray(cohort.event).astype(int)
    if folds < 2:
        raise EvaluationError(f"cross-validation needs at least 2 folds, not {folds}")
    if event_N.sum() < folds:
        raise EvaluationError(
            f"{event_N.sum()} events among {len(event_N)} patients are too few for {folds} folds",
            hint="use fewer folds",
        )
    if cohort.sites is None:
        # Fewer censored patients than folds cannot be spread evenly, and scikit-learn warns of trying.
        label_N = event_N if (event_N == 0).sum() >= folds else np.zeros(len(event_N), int)
        found = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(event_N, label_N))
    else:
        if len(set(cohort.sites)) < folds:
            raise EvaluationError(f"{len(set(cohort.sites))} sites are too few for {folds} folds, each site whole")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        found = list(splitter.split(event_N, event_N, cohort.sites))
    return found


def check_fold(cohort: Cohort, train: Rows, test: Rows, *, name: str) -> None:
    """Check that a model can be trained on one part of the patients and tested on another.

    Raises:
        EvaluationError: a part has no event, or no two test patients of whom one is known to have lived longer.
    """
    time_N, event_N = np.asarray(cohort.time), np.asarray(cohort.event) > 0
    for what, rows in (("training", train), ("test", test)):
        if not event_N[rows].any():
            raise EvaluationError(f"{name}: all {len(rows)} {what} patients are censored")
    first = time_N[test][event_N[test]].min()
    if not ((time_N[test] > first) | ((time_N[test] == first) & ~event_N[test])).any():
        raise EvaluationError(
            f"{name}: no two of its {len(test)} test patients can be compared", hint="use fewer folds"
        )
