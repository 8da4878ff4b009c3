"""Models of survival: Cox's, and the hazards of a few spans of time.

Axes: N patients, D feature width, B patients of a batch, K spans of time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError

from evaluate.tasks.inputs import Array
from store.errors import EvaluationError

EPSILON = 1e-7


def cox_model(features_ND: Array, time_N: Array, event_N: Array, *, penalizer: float) -> Callable[[Array], Array]:
    """Fit lifelines' Cox model and return what gives the log partial hazard of features.

    Features that are the same for all training patients say nothing and are left out.
    """
    varies_D = features_ND.std(axis=0) > 1e-12 * np.maximum(1, np.abs(features_ND).max(axis=0))
    if not varies_D.any():
        raise EvaluationError("all training patients have the same features: there is nothing to fit a Cox model to")
    names = [f"x{number}" for number in range(int(varies_D.sum()))]
    table = pd.DataFrame(features_ND[:, varies_D], columns=names)
    fitter = CoxPHFitter(penalizer=penalizer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lifelines warns of features that hardly vary, at every fit
            fitter.fit(table.assign(time=time_N, event=event_N), "time", "event")
    except (ConvergenceError, np.linalg.LinAlgError) as error:
        raise EvaluationError(f"the Cox model finds no solution: {error}", hint="use a larger penalizer") from error
    return lambda other_ND: np.asarray(
        fitter.predict_log_partial_hazard(pd.DataFrame(other_ND[:, varies_D], columns=names)), np.float64
    )


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
