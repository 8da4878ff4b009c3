"""Concordance against lifelines and against the definitions written as loops, with ties of times and of risks."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from evaluate.metrics.registry import METRICS
from evaluate.metrics.registry import survival as metrics_survival
from evaluate.metrics.survival import uno_weights
from store.errors import EvaluationError


def drawn(items, *, seed, steps=12):
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=items), 1)
    time = 1 + np.floor(steps * rng.uniform(size=items) ** np.exp(risk / 2))
    return {"time": time, "event": rng.integers(2, size=items), "risk": risk}


def value(name, columns):
    return METRICS[name](columns, np.ones((1, len(columns["time"]))))[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("items", [8, 90])
def test_harrells_c_agrees_with_lifelines(seed, items):
    columns = drawn(items, seed=seed)
    expected = concordance_index(columns["time"], -columns["risk"], columns["event"])
    assert value("harrell_c", columns) == pytest.approx(expected, abs=1e-12)


def test_a_high_risk_means_a_short_life():
    columns = {"time": np.arange(1.0, 11), "event": np.ones(10, int), "risk": -np.arange(10.0)}
    assert value("harrell_c", columns) == 1
    assert value("harrell_c", {**columns, "risk": -columns["risk"]}) == 0


def slow_uno(columns, weight):
    """Uno's C as scikit-survival's concordance_index_ipcw has it, pair by pair."""
    time, event, risk = columns["time"], columns["event"], columns["risk"]
    up = down = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[j] > time[i] or (time[j] == time[i] and not event[j])):
                down += weight[i]
                up += weight[i] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return up / down


@pytest.mark.parametrize("seed", range(4))
def test_unos_c_agrees_with_its_definition(seed):
    train, columns = drawn(80, seed=100 + seed), drawn(50, seed=seed)
    # No time is shared by an event and a censoring, so that lifelines' estimate of the censoring is the same.
    train["time"] = train["time"] + 0.5 * (train["event"] == 0)
    censoring = KaplanMeierFitter().fit(train["time"], 1 - train["event"])
    survival = censoring.survival_function_at_times(columns["time"]).to_numpy()
    inside = columns["time"] < train["time"].max()
    expected = np.where(inside, 1 / np.where(inside, survival, 1) ** 2, 0)
    found = uno_weights(columns["time"], train_time=train["time"], train_event=train["event"])
    np.testing.assert_allclose(found, expected)
    assert len(set(found)) > 5
    assert value("uno_c", {**columns, "uno_weight": found}) == pytest.approx(slow_uno(columns, expected), abs=1e-12)


def test_events_come_before_censorings_of_the_same_time():
    found = uno_weights(
        np.array([1.0, 2.0, 3.0, 4.0]), train_time=np.array([1.0, 2, 2, 3, 4]), train_event=np.array([1, 1, 0, 0, 1])
    )
    # At 2 three are at risk once the event has left, one goes. At 3 two are, one goes. From 4 on nothing counts.
    np.testing.assert_allclose(found, [1, (3 / 2) ** 2, (3 / 2 * 2) ** 2, 0])


def test_without_censoring_unos_c_is_harrells():
    columns = drawn(60, seed=3) | {"event": np.ones(60, int)}
    weight = uno_weights(columns["time"], train_time=np.array([1.0, 99]), train_event=np.array([1, 1]))
    assert value("uno_c", {**columns, "uno_weight": weight}) == pytest.approx(value("harrell_c", columns))


def test_only_pairs_within_a_fold_are_compared():
    first, second = drawn(30, seed=1), drawn(40, seed=2)
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    both["risk"][30:] += 100
    both["fold"] = np.repeat([0, 1], [30, 40])
    expected = (value("harrell_c", first) + value("harrell_c", second)) / 2
    assert value("harrell_c", both) == pytest.approx(expected, abs=1e-12)


def test_the_matrix_of_pairs_is_made_in_pieces(monkeypatch):
    columns = drawn(50, seed=7)
    whole = value("harrell_c", columns)
    monkeypatch.setattr(metrics_survival, "PIECE_BYTES", 8 * 50 * 3)
    assert value("harrell_c", columns) == pytest.approx(whole, abs=1e-12)


def test_all_censored_is_undefined():
    assert np.isnan(value("harrell_c", drawn(20, seed=1) | {"event": np.zeros(20, int)}))


@pytest.mark.parametrize("name", ["time", "risk"])
def test_values_that_are_not_finite_are_refused(name):
    columns = drawn(20, seed=1)
    columns[name][3] = np.nan
    with pytest.raises(EvaluationError, match=f"1 values of {name} are not finite"):
        value("harrell_c", columns)
