"""Linear probe: logistic regression on frozen features, with all training items, a fraction, or a few of each class.

Axes: N items, D feature width, C classes or labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from evaluate.results.task_result import TaskResult
from evaluate.tasks.fitting.regression import (
    MAX_ITERATIONS,
    STRENGTHS,
    Strengths,
    best,
    fit_quietly,
    folds_of,
    label_path_losses,
    label_probabilities,
    path_losses,
    probabilities,
    varying,
)
from evaluate.tasks.fitting.subsets import fraction_rows, rows_digest, shot_rows
from evaluate.tasks.fitting.thresholds import Deciding
from store.errors import EvaluationError

from .classified import check_label_splits, check_splits, classified, with_labels
from .inputs import Array, LabelledFeatures, unit_norm

log = logging.getLogger(__name__)

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
        deciding: how the decisions of two classes are made and judged.
    """

    fraction: float | None = None
    shots: int | None = None
    seeds: Sequence[int] = SEEDS
    strengths: Strengths = STRENGTHS
    without_validation: Literal["formula", "folds"] = "formula"
    positive: str | None = None
    allow_shared_groups: bool = False
    deciding: Deciding | None = None

    def __post_init__(self) -> None:
        """Check that there is one amount of training items."""
        if self.shots is not None and self.fraction is not None:
            raise EvaluationError("a linear probe is trained on a fraction or on shots, not on both")

    @property
    def drawn(self) -> bool:
        """True if training items are drawn, so that seeds matter."""
        return self.shots is not None or self.fraction is not None

    @property
    def draws(self) -> Sequence[int]:
        """The seeds that draw; one where nothing is drawn."""
        return self.seeds if self.drawn else (0,)

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

    Validation only ever chooses C and the threshold of two classes: its items are never trained on, and of a fraction
    or of shots no more of them are looked at than there are training items, so that few stay few.

    Args:
        train: features of any length, as in val and test; they are scaled to unit norm.

    Raises:
        EvaluationError: a split is empty or of one class, labels are outside the list, features are not finite or zero,
            a patient is in two splits.
    """
    probe = probe or Probe()
    splits = {"train": train, "test": test} | ({"val": val} if val else {})
    details = check_splits(splits, classes, allow_shared_groups=probe.allow_shared_groups)
    unit = {name: _unit(split, f"{name} features") for name, split in splits.items()}
    scores, validation, runs = [], [], []
    for seed in probe.draws:
        rows, run = _draw(train, probe, seed, classes)
        held = _held(unit.get("val"), probe, len(rows), seed)
        model, chosen = _fit(unit["train"].take(rows), held, len(classes), probe=probe, seed=seed)
        scores.append(_predict(model, np.asarray(unit["test"].features), len(classes)))
        if held is not None and len(classes) == 2:
            validation.append((held.target, model.decision_function(held.features)))
        runs.append(run | _of_held(held) | chosen)
    return classified(
        probe.name,
        test,
        scores,
        classes=classes,
        positive=probe.positive,
        primary=primary,
        details=details | _details(probe, val, runs),
        validation=validation,
        deciding=probe.deciding,
    )


def linear_probe_labels(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    labels: Sequence[str],
    val: LabelledFeatures | None = None,
    probe: Probe | None = None,
    primary: str = "auroc",
) -> TaskResult:
    """Train one regression per label, that label against the rest, with one C for all.

    C is the one with the smallest mean over labels of the log-loss on validation; without validation it is D * 2 / 100.
    A fraction is one of all items, in no proportion of labels.

    Args:
        train: targets are (N, C) of 0 and 1, as in val and test.

    Raises:
        EvaluationError: shots are asked for, no label has both kinds of items in a split, targets are not 0 and 1,
            features are not finite or zero, a patient is in two splits.
    """
    probe = probe or Probe()
    if probe.shots is not None:
        raise EvaluationError(
            "shots of several labels per image are not defined: an image that shows one label shows others too",
            hint="use fractions of the training items",
        )
    splits = {"train": train, "test": test} | ({"val": val} if val else {})
    details = check_label_splits(splits, labels, allow_shared_groups=probe.allow_shared_groups)
    unit = {name: _unit(split, f"{name} features") for name, split in splits.items()}
    columns: dict[str, Array] = {"target": test.target.astype(np.int64)}
    runs = []
    for place, seed in enumerate(probe.draws):
        rows, run = _draw(train, probe, seed, labels)
        fit, held = unit["train"].take(rows), _held(unit.get("val"), probe, len(rows), seed)
        if not varying(fit.target):
            raise EvaluationError(f"no label has both kinds of items among the {len(rows)} that seed {seed} draws")
        strength, how = np.asarray(fit.features).shape[1] * 2 / 100, "formula"
        if held is not None:
            loss = label_path_losses(fit, held, strengths=probe.strengths)
            strength, how = best(loss, probe.strengths), "validation"
        score_NC, converged = label_probabilities(fit, np.asarray(unit["test"].features), strength=strength)
        columns[f"score.{place}" if place else "score"] = score_NC
        runs.append(run | _of_held(held) | {"C": strength, "C_chosen_by": how, "converged": converged})
    return with_labels(probe.name, test, columns, primary=primary, details=details | _details(probe, val, runs))


def _details(probe: Probe, val: LabelledFeatures | None, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    amount: dict[str, Any] = {"kind": "all", "value": 1}
    if probe.drawn:
        kind = "shots" if probe.shots is not None else "fraction"
        amount = {"kind": kind, "value": getattr(probe, kind)}
    return {
        "amount": amount | {"num_train": float(np.mean([run["num_train"] for run in runs]))},
        "num_val": len(val.ids) if val else 0,
        "training_seeds": [int(seed) for seed in probe.seeds] if probe.drawn else [],
        "runs": list(runs),
    }


def same_fits(one: TaskResult, other: TaskResult) -> bool:
    """Return whether two probes trained on the same items with the same C, whatever each is called."""
    fits = [{(run["train_digest"], run["C"]) for run in each.details["runs"]} for each in (one, other)]
    return fits[0] == fits[1]


def _held(val: LabelledFeatures | None, probe: Probe, count: int, seed: int) -> LabelledFeatures | None:
    """Return the validation items to look at: of shots or a fraction a draw of at most as many as are trained on."""
    if val is None or not probe.drawn or len(val.ids) == 0:
        return val
    several = val.target.ndim == 2
    target = np.zeros(len(val.ids), np.int64) if several else val.target
    if probe.shots is not None:
        rows, _ = shot_rows(target, probe.shots, seed=seed, groups=val.clusters)
    else:
        rows = fraction_rows(target, min(1.0, count / len(target)), seed=seed, groups=val.clusters)
    return val.take(np.sort(np.random.default_rng(seed).permutation(rows)[:count]))


def _of_held(held: LabelledFeatures | None) -> dict[str, Any]:
    return {"num_val": 0} if held is None else {"num_val": len(held.ids), "val_digest": rows_digest(held.ids)}


def _draw(
    train: LabelledFeatures, probe: Probe, seed: int, classes: Sequence[str]
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Return the training rows of one seed, and what they are."""
    # Of several labels there are no classes to draw from: each item counts alike.
    target = np.zeros(len(train.ids), np.int64) if train.target.ndim == 2 else train.target.astype(np.int64)
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
        strength, how = best(loss, probe.strengths), "validation"
    elif probe.without_validation == "folds" and (folds := folds_of(train, seed)):
        losses = [
            path_losses(train.take(fit), train.take(held), classes=classes, strengths=probe.strengths)
            for fit, held in folds
        ]
        strength, how = best(np.mean(losses, axis=0), probe.strengths), f"{len(folds)} folds of the training items"
    else:
        strength, how = features_ND.shape[1] * classes / 100, "formula"
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    converged = fit_quietly(model, features_ND, train.target)
    if not converged:
        log.warning("the regression with C = %g did not converge in %d iterations", strength, MAX_ITERATIONS)
    return model, {"C": strength, "C_chosen_by": how, "converged": converged}


def _predict(model: LogisticRegression, unit_ND: Array, classes: int) -> tuple[Array, Array]:
    """Return probabilities, (N, C), and what they come from: of two classes the log-odds of the second."""
    score_NC = probabilities(model, unit_ND, classes)
    return score_NC, model.decision_function(unit_ND) if classes == 2 else score_NC


def _unit(split: LabelledFeatures, what: str) -> LabelledFeatures:
    """Return a split with features of unit norm."""
    features = unit_norm(np.asarray(split.features), what=what, dtype=np.float64)
    return LabelledFeatures(
        ids=split.ids, features=features, target=split.target.astype(np.int64), clusters=split.clusters
    )
