"""Models of survival: Cox's, and the hazards of a few spans of time.

Axes: N patients, D feature width, B patients of a batch, K spans of time.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError

from evaluate.tasks.inputs import Array
from store.errors import EvaluationError

EPSILON = 1e-7


PENALIZERS = (0.01, 0.1, 1.0, 10.0)
"""Strengths of the ridge, ascending, from which validation chooses."""


class Cox:
    """Lifelines' Cox model of training patients; called with features it returns their log partial hazards.

    Features that are the same for all training patients say nothing and are left out.

    Raises:
        EvaluationError: all features are the same, or the model finds no solution.
    """

    def __init__(self, features_ND: Array, time_N: Array, event_N: Array, *, penalizer: float) -> None:
        self._varies_D = varying_features(features_ND)
        self._fitter = CoxPHFitter(penalizer=penalizer)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lifelines warns of features that hardly vary, at every fit
                self._fitter.fit(self._table(features_ND).assign(time=time_N, event=event_N), "time", "event")
        except (ConvergenceError, np.linalg.LinAlgError) as error:
            raise EvaluationError(f"the Cox model finds no solution: {error}", hint="use a larger penalizer") from error

    def __call__(self, features_ND: Array) -> npt.NDArray[np.float64]:
        """Return the log partial hazards, (N,)."""
        return np.asarray(self._fitter.predict_log_partial_hazard(self._table(features_ND)), np.float64)

    def log_likelihood(self, features_ND: Array, time_N: Array, event_N: Array) -> float:
        """Return the mean log partial likelihood of other patients, without the penalty."""
        table = self._table(features_ND).assign(time=time_N, event=event_N)
        return float(self._fitter.score(table, scoring_method="log_likelihood"))

    def _table(self, features_ND: Array) -> pd.DataFrame:
        names = [f"x{number}" for number in range(int(self._varies_D.sum()))]
        return pd.DataFrame(features_ND[:, self._varies_D], columns=names)


def varying_features(features_ND: Array) -> npt.NDArray[np.bool_]:
    """Return which features differ between patients, (D,); raise EvaluationError where none does."""
    varies_D = features_ND.std(axis=0) > 1e-12 * np.maximum(1, np.abs(features_ND).max(axis=0))
    if not varies_D.any():
        raise EvaluationError("all training patients have the same features: there is nothing to fit a Cox model to")
    return np.asarray(varies_D)


def chosen_penalizer(train: tuple[Array, Array, Array], val: tuple[Array, Array, Array]) -> float:
    """Return the penalizer with the largest log partial likelihood on validation patients, the largest of equals.

    Args:
        train: features, times and events of the training patients; val likewise.

    Raises:
        EvaluationError: the model finds no solution with any of them.
    """
    found: dict[float, float] = {}
    for penalizer in PENALIZERS:
        try:
            found[penalizer] = Cox(*train, penalizer=penalizer).log_likelihood(*val)
        except EvaluationError:
            if penalizer == PENALIZERS[-1] and not found:
                raise
    return max(found, key=lambda penalizer: (found[penalizer], penalizer))


def time_bounds(time_N: Array, event_N: Array, *, bins: int) -> npt.NDArray[np.float64]:
    """Return the bounds between K spans of time: quantiles of the times of events, K - 1 of them, fewer where equal."""
    if bins < 2:
        raise EvaluationError(f"a discrete hazard needs at least 2 spans of time, not {bins}")
    times = np.asarray(time_N, np.float64)[np.asarray(event_N) > 0]
    return np.unique(np.quantile(times, np.arange(1, bins) / bins))


def discrete_nll(logits_BK: torch.Tensor, bin_B: torch.Tensor, event_B: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-likelihood of discrete survival (Zadeh and Schmid 2021).

    With y the patient's span, h = sigmoid(logits) the hazards and S = cumprod(1 - h) the survival, an event costs
    -log S(y-1) - log h(y) and a censoring -log S(y), where S(-1) = 1.

    Args:
        logits_BK: outputs of the network.
        bin_B: span of each patient's time, from 0.
        event_B: 1 for an event, 0 for a censoring.
    """
    hazard_BK = torch.sigmoid(logits_BK)
    survival_BK = torch.cumprod(1 - hazard_BK, dim=1)
    before_BK = torch.cat([torch.ones_like(survival_BK[:, :1]), survival_BK[:, :-1]], dim=1)

    def log_at(value_BK: torch.Tensor) -> torch.Tensor:
        return value_BK.gather(1, bin_B[:, None]).squeeze(1).clamp(min=EPSILON).log()

    cost_B = event_B * (log_at(before_BK) + log_at(hazard_BK)) + (1 - event_B) * log_at(survival_BK)
    return -cost_B.mean()


def discrete_risk(logits_NK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return minus the sum of survival over the spans: higher for who is expected to live shorter."""
    hazard_NK = 1 / (1 + np.exp(-logits_NK))
    return np.asarray(-np.cumprod(1 - hazard_NK, axis=1).sum(axis=1))
