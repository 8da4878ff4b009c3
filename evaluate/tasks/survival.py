"""Survival from features of images: a Cox model of mean features, and ABMIL with a discrete hazard, cross-validated.

Axes: N patients, B patients of a batch, K bins of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test

from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS, SUBGROUP
from evaluate.metrics.survival import uno_weights
from evaluate.results.task_result import TaskResult, result_of
from evaluate.tasks.fitting.abmil import Abmil, GatedAttention, outputs_of, train_abmil
from evaluate.tasks.fitting.survival_models import Cox, chosen_penalizer, discrete_nll, discrete_risk, time_bounds
from evaluate.tasks.fitting.tables import Rows
from store.errors import EvaluationError

from .classified import subgroup_metrics
from .cohort import Cohort, Fold, check_fold, survival_folds
from .inputs import Array, check_disjoint

NAMES = ("harrell_c", "uno_c")
SPLIT = ("train", "test")

SURVIVAL_ABMIL = Abmil(
    hidden=512, attention=256, dropout=0.25, lr=3e-4, weight_decay=1e-5, batch=8, epochs=20, max_patches=2048
)
"""Patho-Bench's settings, but for its batch."""

Risks = Callable[[Rows, Rows, int], tuple[Array, Array]]
"""Maps training rows, test rows and a seed to the risks of both."""


@dataclass(kw_only=True, frozen=True, slots=True)
class CrossValidation:
    """Cross-validation of patients; the seed decides the split, the same for all models."""

    folds: int = 5
    seed: int = 0


def survival_cox(
    cohort: Cohort,
    *,
    split: CrossValidation | Fold | None = None,
    val: Rows | None = None,
    penalizer: float = 0.1,
    primary: str = "harrell_c",
) -> TaskResult:
    """Predict survival by a ridge Cox model of each patient's mean feature.

    Args:
        split: cross-validation; or rows of training and of test patients.
        val: validation patients of a split that is given; they choose the penalizer if one of them had the event.
        penalizer: as lifelines defines it; it standardizes features itself. Used where validation does not choose.

    Raises:
        EvaluationError: too few events, or the model finds no solution.
    """
    said: dict[str, Any] = {"penalizer_chosen_by": "default"}
    folds = checked_folds(cohort, split or CrossValidation(), val=val)
    if val is not None and np.any(cohort.event[val]):
        features_ND, (train, _) = cohort.pooled(folds[0][0]), folds[0]
        parts = [(features_ND[rows], cohort.time[rows], cohort.event[rows]) for rows in (train, val)]
        penalizer, said = chosen_penalizer(*parts), {"penalizer_chosen_by": "validation"}

    def risks(train: Rows, test: Rows, _: int) -> tuple[Array, Array]:
        features_ND = cohort.pooled(train)
        model = Cox(features_ND[train], cohort.time[train], cohort.event[train], penalizer=penalizer)
        return model(features_ND[train]), model(features_ND[test])

    run = _Run(risks=risks, split=split or CrossValidation(), val=val, said={"penalizer": penalizer, **said})
    return _cross_validated("survival_cox", cohort, folds, run, primary=primary)


def survival_abmil(
    cohort: Cohort,
    *,
    split: CrossValidation | Fold | None = None,
    val: Rows | None = None,
    settings: Abmil = SURVIVAL_ABMIL,
    bins: int = 4,
    primary: str = "harrell_c",
) -> TaskResult:
    """Predict survival by ABMIL whose outputs are the hazards of a few spans of time.

    Args:
        split: cross-validation; or rows of training and of test patients.
        val: validation patients of a split that is given; the epoch with their smallest loss is kept.
        settings: without validation all epochs are run; each fold is trained with each seed.
        bins: K, bounded by quantiles of the training events' times.

    Raises:
        EvaluationError: too few events.
    """
    folds = checked_folds(cohort, split or CrossValidation(), val=val)
    epochs = []

    def risks(train: Rows, test: Rows, seed: int) -> tuple[Array, Array]:
        bags = cohort.bags(train)
        bounds = time_bounds(cohort.time[train], cohort.event[train], bins=bins)

        def loss_of(patients: Rows, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
            own = patients[rows]
            bin_B = torch.from_numpy(np.searchsorted(bounds, cohort.time[own], side="right")).to(logits.device)
            event_B = torch.from_numpy(np.asarray(cohort.event[own], np.float32)).to(logits.device)
            return discrete_nll(logits, bin_B, event_B)

        def validate(model: GatedAttention) -> float:
            assert val is not None  # noqa: S101 - it is called only then
            logits = torch.from_numpy(outputs_of(model, [bags[row] for row in val], device=settings.device))
            return -float(loss_of(val, logits, np.arange(len(val))))

        model, stopped = train_abmil(
            [bags[row] for row in train],
            partial(loss_of, train),
            outputs=len(bounds) + 1,
            settings=settings,
            seed=seed,
            validate=None if val is None else validate,
        )
        epochs.append(stopped.best_epoch)
        found = [outputs_of(model, [bags[row] for row in rows], device=settings.device) for rows in (train, test)]
        return discrete_risk(found[0]), discrete_risk(found[1])

    said = {"training_seeds": [int(seed) for seed in settings.seeds], "bins": bins, "settings": asdict(settings)}
    run = _Run(risks=risks, split=split or CrossValidation(), val=val, seeds=settings.seeds, said=said)
    found = _cross_validated("survival_abmil", cohort, folds, run, primary=primary)
    return replace(found, details=found.details | {"best_epochs": epochs})


@dataclass(kw_only=True, frozen=True, slots=True)
class _Run:
    """The model to cross-validate, and how."""

    risks: Risks
    split: CrossValidation | Fold
    val: Rows | None
    said: dict[str, Any]
    seeds: Sequence[int] = (0,)


def _cross_validated(task: str, cohort: Cohort, folds: Sequence[Fold], run: _Run, *, primary: str) -> TaskResult:
    """Score every test patient by the model of the fold that tests it."""
    tested = np.sort(np.concatenate([test for _, test in folds]))
    count = len(cohort.ids)
    fold_N, weight_N = np.empty(count, np.int64), np.empty(count)
    risk_SN, high_SN = np.empty((len(run.seeds), count)), np.empty((len(run.seeds), count), bool)
    for number, (train, test) in enumerate(folds):
        fold_N[test] = number
        weight_N[test] = uno_weights(cohort.time[test], train_time=cohort.time[train], train_event=cohort.event[train])
        for place, seed in enumerate(run.seeds):
            train_risk, risk_SN[place, test] = run.risks(train, test, seed)
            high_SN[place, test] = risk_SN[place, test] > np.median(train_risk)
    columns: dict[str, Array] = {
        "time": np.asarray(cohort.time, np.float64)[tested],
        "event": np.asarray(cohort.event, np.int64)[tested],
        "fold": fold_N[tested],
        "uno_weight": weight_N[tested],
    }
    for place in range(len(run.seeds)):
        columns[f"risk.{place}" if place else "risk"] = risk_SN[place, tested]
    split: dict[str, Any] = {"kind": "given", "num_val": 0 if run.val is None else len(run.val)}
    if isinstance(run.split, CrossValidation):
        split = {"kind": "folds", **asdict(run.split), "by_site": cohort.sites is not None}
    details = run.said | {
        "num_events": int(columns["event"].sum()),
        "num_train": [len(train) for train, _ in folds],
        "split": split,
        "folds": _by_fold(columns),
        **kaplan_meier(columns["time"], columns["event"], high_SN[0, tested]),
    }
    ids = [cohort.ids[row] for row in tested]
    for name, values in cohort.subgroups.items():
        columns[f"{SUBGROUP}{name}"] = np.asarray(values)[tested]
    predictions = Predictions(ids=ids, clusters=ids, columns=columns, strata="event")
    of_subgroups, parts = subgroup_metrics(predictions, primary)
    details |= {"subgroups": parts} if parts else {}
    return result_of(task, primary=primary, names=[*NAMES, *of_subgroups], predictions=predictions, details=details)


def kaplan_meier(time_N: Array, event_N: Array, high_N: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the survival curves of patients of high and of low risk, and the log-rank test between them.

    Args:
        high_N: whether each patient's risk is above the median of the patients that its model was trained on.
    """
    curves: dict[str, Any] = {}
    for name, rows in (("low", ~high_N), ("high", high_N)):
        if not rows.any():
            curves[name] = {"n": 0, "time": [], "survival": [], "at_risk": []}
            continue
        fitter = KaplanMeierFitter().fit(time_N[rows], event_N[rows])
        curves[name] = {
            "n": int(rows.sum()),
            "time": [float(time) for time in fitter.survival_function_.index],
            "survival": [float(share) for share in fitter.survival_function_.iloc[:, 0]],
            "at_risk": [int(left) for left in fitter.event_table["at_risk"]],
        }
    if high_N.all() or not high_N.any():
        return {"kaplan_meier": curves, "log_rank": None}
    test = logrank_test(time_N[high_N], time_N[~high_N], event_N[high_N], event_N[~high_N])
    return {"kaplan_meier": curves, "log_rank": {"statistic": float(test.test_statistic), "p": float(test.p_value)}}


def checked_folds(cohort: Cohort, split: CrossValidation | Fold, *, val: Rows | None = None) -> list[Fold]:
    """Return the folds; a split that is given is one.

    Raises:
        EvaluationError: a patient is in two parts, or a part tells nothing: no event, nothing to compare.
    """
    if isinstance(split, CrossValidation):
        if val is not None:
            raise EvaluationError("validation patients belong to a split that is given, not to folds")
        folds = survival_folds(cohort, folds=split.folds, seed=split.seed)
    else:
        folds = [split]
        parts = dict(zip(SPLIT, split, strict=True)) | ({} if val is None else {"val": val})
        check_disjoint({name: [cohort.ids[row] for row in rows] for name, rows in parts.items()})
    for number, (train, test) in enumerate(folds):
        check_fold(cohort, train, test, name=f"fold {number + 1}" if len(folds) > 1 else "the split")
    return folds


def _by_fold(columns: dict[str, Array]) -> dict[str, Any]:
    """Return each metric of every fold, with mean and standard deviation."""
    tests = [columns["fold"] == number for number in np.unique(columns["fold"])]
    found: dict[str, Any] = {
        "num_test": [int(test.sum()) for test in tests],
        "num_events": [int(columns["event"][test].sum()) for test in tests],
    }
    for name in NAMES:
        values = [
            float(METRICS[name]({column: rows[test] for column, rows in columns.items()}, np.ones((1, test.sum())))[0])
            for test in tests
        ]
        defined = bool(np.isfinite(values).all())
        found[name] = {
            "values": [value if np.isfinite(value) else None for value in values],
            "mean": float(np.mean(values)) if defined else None,
            "sd": float(np.std(values, ddof=1)) if defined and len(values) > 1 else None,
        }
    return found
