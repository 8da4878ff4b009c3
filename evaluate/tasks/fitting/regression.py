"""Logistic regressions on frozen features: one whose classes exclude each other, or one for each of several labels.

Axes: N items, D feature width, C classes or labels, S strengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from evaluate.tasks.inputs import Array, LabelledFeatures

Strengths = Sequence[float]

STRENGTHS: Strengths = tuple(float(strength) for strength in np.logspace(-6, 5, 45))
"""Inverse strengths of regularization to choose from: TITAN's 45, from 1e-6 to 1e5."""

MAX_ITERATIONS = 1000
FOLDS = 5
SMALLEST = np.finfo(np.float64).eps
"""Probabilities are at least this in a log-loss, as in scikit-learn."""


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
        fit_quietly(model, train.features, train.target)
        probability = probabilities(model, held.features, classes)[np.arange(len(held.target)), held.target]
        losses.append(float(-np.log(np.clip(probability, SMALLEST, 1)).mean()))
    return np.array(losses)


def label_path_losses(
    train: LabelledFeatures, held: LabelledFeatures, *, strengths: Strengths
) -> npt.NDArray[np.float64]:
    """Return the log-loss on held-out items with every C, as the mean over labels, (S,); targets are (N, C)."""
    losses_CS = [
        path_losses(_of_label(train, label), _of_label(held, label), classes=2, strengths=strengths)
        for label in varying(train.target)
    ]
    return np.asarray(np.mean(losses_CS, axis=0))


def label_probabilities(
    train: LabelledFeatures, test_ND: Array, *, strength: float
) -> tuple[npt.NDArray[np.float64], bool]:
    """Train a regression per label from zero; return the probability of each label, (N, C), and whether all converged.

    A label that all training items have, or none has, gets the probability 1 or 0.
    """
    score_NC = np.tile(train.target.mean(axis=0, dtype=np.float64), (len(test_ND), 1))
    converged = True
    for label in varying(train.target):
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
        converged &= fit_quietly(model, train.features, train.target[:, label])
        score_NC[:, label] = model.predict_proba(test_ND)[:, 1]
    return score_NC, converged


def varying(target_NC: Array) -> list[int]:
    """Return the labels that some items have and others lack."""
    have_C = target_NC.sum(axis=0)
    return [int(label) for label in np.flatnonzero((have_C > 0) & (have_C < len(target_NC)))]


def _of_label(split: LabelledFeatures, label: int) -> LabelledFeatures:
    return LabelledFeatures(ids=split.ids, features=split.features, target=split.target[:, label].astype(np.int64))


def probabilities(model: LogisticRegression, unit_ND: Array | Sequence[Array], classes: int) -> npt.NDArray[np.float64]:
    """Return the probability of every class of the dataset, (N, C): 0 for one that the model never saw."""
    found = np.zeros((len(unit_ND), classes))
    found[:, model.classes_] = model.predict_proba(unit_ND)
    return found


def fit_quietly(model: LogisticRegression, unit_ND: Array | Sequence[Array], target: Array) -> bool:
    """Train, and say whether it converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(unit_ND, target)
    return bool((model.n_iter_ < MAX_ITERATIONS).all())


def best(losses: npt.NDArray[np.float64], strengths: Strengths) -> float:
    """Return the C of the smallest loss, the smallest C of equals."""
    return float(strengths[int(losses.argmin())])


def folds_of(train: LabelledFeatures, seed: int) -> list[tuple[Array, Array]]:
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
