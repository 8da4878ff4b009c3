"""Linear probe: logistic regression on frozen features, with all training items, a fraction, or a few of each class.

Axes: N items, D feature width, C classes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from evaluate.results.task_result import TaskResult
from evaluate.tasks.fitting.subsets import fraction_rows, rows_digest, shot_rows
from store.errors import EvaluationError

from .classified import check_splits, classified
from .inputs import Array, LabelledFeatures, unit_norm

log = logging.getLogger(__name__)

Strengths = Sequence[float]

STRENGTHS: Strengths = tuple(float(strength) for strength in np.logspace(-6, 5, 45))
"""Inverse strengths of regularization to choose from: TITAN's 45, from 1e-6 to 1e5."""

MAX_ITERATIONS = 1000
FOLDS = 5
SEEDS = (0, 1, 2, 3, 4)


@dataclass(kw_only=True, frozen=True, slots=True)
class Probe:
    """Training of the regression.

    Attributes:
        fraction: share of the training items of each class.
        shots: number of items of each class; with neither fraction nor shots all training items are used.
        seeds: each draws its own training items. Without a draw nothing is random, and one model is trained.
        strengths: values of C, of which validation chooses by log-loss.
        without_validation: ``formula`` takes C = D * classes / 100 (UNI's), ``folds`` chooses by cross-validation.
        positive: the positive one of two classes; the second if left out.
        allow_shared_groups: accept patients that are in two splits.
    """

    fraction: float | None = None
    shots: int | None = None
    seeds: Sequence[int] = SEEDS
    strengths: Strengths = STRENGTHS
    without_validation: Literal["formula", "folds"] = "formula"
    positive: str | None = None
    allow_shared_groups: bool = False

    @property
    def name(self) -> str:
        """The task's name: ``linear_probe``, ``linear_probe_10pct``, ``linear_probe_4shot``."""
        if self.shots is not None:
            return f"linear_probe_{self.shots}shot"
        return "linear_probe" if self.fraction is None else f"linear_probe_{100 * self.fraction:g}pct"


def linear_probe(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    classes: Sequence[str],
    val: LabelledFeatures | None = None,
    probe: Probe | None = None,
    primary: str = "balanced_accuracy",
) -> TaskResult:
    """Train on one split, choose C on a second, and classify the third.

    Validation only ever chooses C: its items are never trained on, so that few shots stay few.

    Args:
        train: features of any length, as in val and test; they are scaled to unit norm.

    Raises:
        EvaluationError: a split is empty or of one class, labels are outside the list, features are not finite or zero,
            a patient is in two splits.
    """
    probe = probe or Probe()
    if probe.shots is not None and probe.fraction is not None:
        raise EvaluationError("a linear probe is trained on a fraction or on shots, not on both")
    splits = {"train": train, "test": test} | ({"val": val} if val else {})
    details = check_splits(splits, classes, allow_shared_groups=probe.allow_shared_groups)
    unit = {name: _unit(split, f"{name} features") for name, split in splits.items()}
    drawn = probe.shots is not None or probe.fraction is not None
    scores, runs = [], []
    for seed in probe.seeds if drawn else (0,):
        rows, run = _draw(train, probe, seed, classes)
        model, chosen = _fit(unit["train"].take(rows), unit.get("val"), len(classes), probe=probe, seed=seed)
        scores.append(_predict(model, np.asarray(unit["test"].features), len(classes)))
        runs.append(run | chosen)
    details |= {
        "num_val": len(val.ids) if val else 0,
        "training_seeds": [int(seed) for seed in probe.seeds] if drawn else [],
        "runs": runs,
    }
    return classified(
        probe.name, test, scores, classes=classes, positive=probe.positive, primary=primary, details=details
    )


def _draw(
    train: LabelledFeatures, probe: Probe, seed: int, classes: Sequence[str]
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Return the training rows of one seed, and what they are."""
    target = train.target.astype(np.int64)
    short: dict[int, int] = {}
    if probe.shots is not None:
        rows, short = shot_rows(target, probe.shots, seed=seed, groups=train.clusters)
    elif probe.fraction is not None:
        rows = fraction_rows(target, probe.fraction, seed=seed, groups=train.clusters)
    else:
        rows = np.arange(len(target))
    fewer = {classes[label]: count for label, count in short.items()}
    if fewer:
        log.warning("fewer than %d training items: %s", probe.shots, fewer)
    return rows, {
        "num_train": len(rows),
        "train_digest": rows_digest([train.ids[row] for row in rows]),
        "classes_with_fewer_shots": fewer,
    }


def _fit(
    train: LabelledFeatures, val: LabelledFeatures | None, classes: int, *, probe: Probe, seed: int
) -> tuple[LogisticRegression, dict[str, Any]]:
    """Choose C and train with it from zero, as anyone with scikit-learn would; return also how C was chosen."""
    features_ND = np.asarray(train.features)
    if val is not None:
        loss = path_losses(train, val, classes=classes, strengths=probe.strengths)
        strength, how = _best(loss, probe.strengths), "validation"
    elif probe.without_validation == "folds" and (folds := _folds(train, seed)):
        losses = [
            path_losses(train.take(fit), train.take(held), classes=classes, strengths=probe.strengths)
            for fit, held in folds
        ]
        strength, how = _best(np.mean(losses, axis=0), probe.strengths), f"{len(folds)} folds of the training items"
    else:
        strength, how = features_ND.shape[1] * classes / 100, "formula"
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    converged = _fit_quietly(model, features_ND, train.target)
    if not converged:
        log.warning("the regression with C = %g did not converge in %d iterations", strength, MAX_ITERATIONS)
    return model, {"C": strength, "C_chosen_by": how, "converged": converged}


def path_losses(
    train: LabelledFeatures, held: LabelledFeatures, *, classes: int, strengths: Strengths
) -> npt.NDArray[np.float64]:
    """Return the log-loss on held-out items with every C; each model starts where the one before ended.

    Args:
        classes: number of classes of the dataset; one without training items has the probability 0.
    """
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    losses = []
    for strength in strengths:
        model.set_params(C=strength)
        _fit_quietly(model, train.features, train.target)
        probability = probabilities(model, held.features, classes)[np.arange(len(held.target)), held.target]
        losses.append(float(-np.log(np.clip(probability, np.finfo(np.float64).eps, 1)).mean()))
    return np.array(losses)


def probabilities(model: LogisticRegression, unit_ND: Array | Sequence[Array], classes: int) -> npt.NDArray[np.float64]:
    """Return the probability of every class of the dataset, (N, C): 0 for one that the model never saw."""
    found = np.zeros((len(unit_ND), classes))
    found[:, model.classes_] = model.predict_proba(unit_ND)
    return found


def _predict(model: LogisticRegression, unit_ND: Array, classes: int) -> tuple[Array, Array]:
    """Return probabilities, (N, C), and what they come from: of two classes the log-odds of the second."""
    score_NC = probabilities(model, unit_ND, classes)
    return score_NC, model.decision_function(unit_ND) if classes == 2 else score_NC


def _fit_quietly(model: LogisticRegression, unit_ND: Array | Sequence[Array], target: Array) -> bool:
    """Train, and say whether it converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(unit_ND, target)
    return bool((model.n_iter_ < MAX_ITERATIONS).all())


def _unit(split: LabelledFeatures, what: str) -> LabelledFeatures:
    """Return a split with features of unit norm."""
    features = unit_norm(np.asarray(split.features), what=what, dtype=np.float64)
    return LabelledFeatures(
        ids=split.ids, features=features, target=split.target.astype(np.int64), clusters=split.clusters
    )


def _best(losses: npt.NDArray[np.float64], strengths: Strengths) -> float:
    """Return the C of the smallest loss, the smallest C of equals."""
    return float(strengths[int(losses.argmin())])


def _folds(train: LabelledFeatures, seed: int) -> list[tuple[Array, Array]]:
    """Return stratified folds that keep groups whole; none where a class is in too few items or groups for two."""
    of_class = [np.flatnonzero(train.target == label) for label in np.unique(train.target)]
    groups = train.clusters
    fewest = min(len(rows) if groups is None else len({groups[int(row)] for row in rows}) for rows in of_class)
    count = min(FOLDS, fewest)
    if count < 2:
        return []
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=count, shuffle=True, random_state=seed)
    found = list(splitter.split(np.zeros(len(train.target)), train.target, groups))
    return found if all(len(np.unique(train.target[fit])) > 1 for fit, _ in found) else []
