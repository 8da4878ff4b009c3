"""Survival against lifelines used plainly, the definitions written as loops, and cohorts with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index

from evaluate.metrics.registry import METRICS
from evaluate.metrics.survival import uno_weights
from evaluate.tasks.cohort import Cohort, by_patient, survival_folds
from evaluate.tasks.fitting.abmil import Abmil
from evaluate.tasks.fitting.survival_models import (
    PENALIZERS,
    Cox,
    chosen_penalizer,
    discrete_nll,
    discrete_risk,
    time_bounds,
)
from evaluate.tasks.survival import CrossValidation, survival_abmil, survival_cox
from store.errors import EvaluationError

WPBC = Path(__file__).parents[3] / "../shared/data/wpbc/wpbc.data"
QUICK = Abmil(hidden=16, attention=8, lr=3e-3, batch=16, epochs=15)


def drawn(patients=120, *, width=5, signal=1.5, seed=0, bags=False):
    """Patients whose first feature is their risk; in a bag only a few patches show it."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=patients)
    time = np.ceil(20 * rng.exponential(size=patients) * np.exp(-signal * risk))
    censoring = np.ceil(30 * rng.exponential(size=patients))
    features = rng.normal(size=(patients, width))
    features[:, 0] = risk + 0.1 * rng.normal(size=patients)
    if bags:
        bagged = [rng.normal(size=(int(size), width)) for size in rng.integers(1, 12, size=patients)]
        for bag, own in zip(bagged, risk, strict=True):
            bag[0] = [own, 4, 0, 0, 0]
    return Cohort(
        ids=[f"patient {number}" for number in range(patients)],
        features=bagged if bags else features,
        time=np.minimum(time, censoring),
        event=(time <= censoring).astype(int),
    )


def changed(cohort, **changes):
    names = ("ids", "features", "time", "event", "sites")
    return Cohort(**{name: getattr(cohort, name) for name in names} | changes)


def wpbc():
    """The prognostic Wisconsin data: 30 features of cell nuclei, tumour size, lymph nodes, months to recurrence."""
    if not WPBC.exists():
        pytest.skip(f"{WPBC} is not there")
    table = pd.read_csv(WPBC, header=None)
    return Cohort(
        ids=[f"{number} {row}" for row, number in enumerate(table[0])],
        features=table.iloc[:, 3:].to_numpy(np.float64),
        time=table[2].to_numpy(np.float64),
        event=(table[1] == "R").to_numpy(int),
    )


def lifelines_c(cohort, folds, penalizer):
    """The C-index of lifelines' own Cox model, scored by lifelines itself on each fold's test patients."""
    table = pd.DataFrame(np.asarray(cohort.features)).add_prefix("x").assign(T=cohort.time, E=cohort.event)
    values = []
    for train, test in folds:
        fitter = CoxPHFitter(penalizer=penalizer).fit(table.iloc[train], "T", "E")
        values.append(fitter.score(table.iloc[test], scoring_method="concordance_index"))
    return values


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("penalizer", [0.1, 1.0])
def test_cox_on_wpbc_agrees_with_lifelines_on_the_same_split(penalizer):
    cohort = wpbc()
    assert (len(cohort.ids), cohort.event.sum()) == (198, 47)
    found = survival_cox(cohort, penalizer=penalizer)
    fold_N = found.predictions.columns["fold"]
    folds = [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)) for fold in range(5)]
    expected = lifelines_c(cohort, folds, penalizer)
    assert found.details["folds"]["harrell_c"]["values"] == pytest.approx(expected, abs=1e-12)
    assert found.metrics["harrell_c"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert 0.5 < found.metrics["harrell_c"] < 0.8


@pytest.mark.filterwarnings("ignore")
def test_cox_on_all_of_wpbc_agrees_with_what_lifelines_says_of_itself():
    cohort = wpbc()
    table = pd.DataFrame(cohort.features).add_prefix("x").assign(T=cohort.time, E=cohort.event)
    fitter = CoxPHFitter(penalizer=0.1).fit(table, "T", "E")
    model = Cox(cohort.features, cohort.time, cohort.event, penalizer=0.1)
    columns = {"time": cohort.time, "event": cohort.event, "risk": model(cohort.features)}
    assert METRICS["harrell_c"](columns, np.ones((1, 198)))[0] == pytest.approx(fitter.concordance_index_, abs=1e-12)


def test_cox_finds_the_risk_and_says_what_each_fold_reached():
    cohort = drawn()
    found = survival_cox(cohort)
    columns, folds = found.predictions.columns, found.details["folds"]
    values, unos = [], []
    for fold in range(5):
        test, train = columns["fold"] == fold, columns["fold"] != fold
        values.append(concordance_index(cohort.time[test], -columns["risk"][test], cohort.event[test]))
        weight = uno_weights(cohort.time[test], train_time=cohort.time[train], train_event=cohort.event[train])
        np.testing.assert_array_equal(columns["uno_weight"][test], weight)
        unos.append(folds["uno_c"]["values"][fold])
    assert folds["harrell_c"]["values"] == pytest.approx(values)
    assert folds["harrell_c"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert found.metrics["harrell_c"] == pytest.approx(np.mean(values))
    assert found.metrics["uno_c"] == pytest.approx(np.mean(unos))
    assert found.metrics["harrell_c"] > 0.75
    assert found.details["log_rank"]["p"] < 1e-6
    assert found.details["split"] == {"kind": "folds", "folds": 5, "seed": 0, "by_site": False}


@pytest.mark.filterwarnings("ignore")
def test_a_split_that_the_dataset_has_is_taken():
    cohort = drawn()
    order = np.random.default_rng(2).permutation(120)
    train, test = order[:80], np.sort(order[80:])
    found = survival_cox(cohort, split=(train, test))
    assert found.predictions.ids == [cohort.ids[row] for row in test]
    assert found.metrics["harrell_c"] == pytest.approx(lifelines_c(cohort, [(train, test)], 0.1)[0], abs=1e-12)
    assert found.details["split"] == {"kind": "given", "num_val": 0}
    assert found.details["folds"]["harrell_c"]["sd"] is None
    with pytest.raises(EvaluationError, match="1 groups are in both test and train"):
        survival_cox(cohort, split=(train, np.append(test, train[0])))


def test_curves_are_of_patients_above_and_below_the_median_risk_of_the_training_patients():
    cohort = drawn(seed=3)
    found = survival_cox(cohort, penalizer=0.5)
    fold_N, high_N = found.predictions.columns["fold"], np.zeros(120, bool)
    for fold in range(5):
        train, test = fold_N != fold, fold_N == fold
        model = Cox(cohort.features[train], cohort.time[train], cohort.event[train], penalizer=0.5)
        high_N[test] = model(cohort.features[test]) > np.median(model(cohort.features[train]))
    test = logrank_test(cohort.time[high_N], cohort.time[~high_N], cohort.event[high_N], cohort.event[~high_N])
    assert found.details["log_rank"]["p"] == pytest.approx(test.p_value)
    curve = found.details["kaplan_meier"]["high"]
    expected = KaplanMeierFitter().fit(cohort.time[high_N], cohort.event[high_N])
    assert curve["n"] == high_N.sum()
    np.testing.assert_allclose(expected.predict(curve["time"]).to_numpy(), curve["survival"])
    assert curve["at_risk"][0] == high_N.sum()


def test_a_permutation_of_times_gives_chance():
    values = []
    for seed in range(6):
        cohort = drawn(seed=seed)
        order = np.random.default_rng(seed).permutation(120)
        values.append(survival_cox(changed(cohort, time=cohort.time[order], event=cohort.event[order])).metrics)
    assert np.mean([value["harrell_c"] for value in values]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([value["uno_c"] for value in values]) == pytest.approx(0.5, abs=0.08)


def test_abmil_finds_the_patch_that_tells_and_the_mean_does_not():
    cohort = drawn(200, bags=True, signal=2.0)
    found = survival_abmil(cohort, settings=QUICK, split=CrossValidation(folds=3))
    assert found.metrics["harrell_c"] > 0.75
    assert found.metrics["harrell_c"] > survival_cox(cohort, split=CrossValidation(folds=3)).metrics["harrell_c"]
    assert found.seeds == {}


def test_abmil_of_several_seeds_is_reported_by_seed():
    cohort = drawn(60, bags=True)
    settings = Abmil(hidden=4, attention=4, epochs=1)
    found = survival_abmil(cohort, settings=replace(settings, seeds=(0, 1)), split=CrossValidation(folds=2))
    assert len(set(found.seeds["harrell_c"])) == 2
    assert found.metrics["harrell_c"] == pytest.approx(np.mean(found.seeds["harrell_c"]))
    again = survival_abmil(cohort, settings=replace(settings, seeds=(0, 1)), split=CrossValidation(folds=2))
    np.testing.assert_array_equal(found.predictions.columns["risk.1"], again.predictions.columns["risk.1"])


def test_the_discrete_likelihood_is_its_formula():
    rng = np.random.default_rng(0)
    logits, bins, events = rng.normal(size=(20, 4)), rng.integers(4, size=20), rng.integers(2, size=20)
    total = 0.0
    for row in range(20):
        hazard = [1 / (1 + np.exp(-value)) for value in logits[row]]
        survival = [np.prod([1 - value for value in hazard[: k + 1]]) for k in range(4)]
        y = bins[row]
        before = 1.0 if y == 0 else survival[y - 1]
        censored = 1 - events[row]
        total -= (1 - censored) * (np.log(before) + np.log(hazard[y])) + censored * np.log(survival[y])
    found = discrete_nll(torch.from_numpy(logits), torch.from_numpy(bins), torch.from_numpy(events).double())
    assert float(found) == pytest.approx(total / 20)
    assert discrete_risk(logits)[19] == pytest.approx(-sum(survival))


def test_a_certain_hazard_does_not_make_the_loss_infinite():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss = discrete_nll(logits, torch.tensor([1]), torch.tensor([1.0]))
    assert torch.isfinite(loss)


def test_spans_of_time_hold_as_many_training_events_each():
    time, event = np.arange(100.0), np.arange(100) % 2
    bounds = time_bounds(time, event, bins=4)
    spans = np.searchsorted(bounds, time[event == 1], side="right")
    assert np.bincount(spans).tolist() == pytest.approx([12.5] * 4, abs=0.5)
    assert len(time_bounds(np.array([5.0, 5, 5, 7]), np.ones(4), bins=4)) < 3


def test_folds_hold_each_patient_once_with_events_spread_evenly():
    cohort = drawn()
    folds = survival_folds(cohort, folds=5, seed=1)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(120))
    assert all(not set(train) & set(test) for train, test in folds)
    events = [cohort.event[test].sum() for _, test in folds]
    assert max(events) - min(events) <= 1


def test_folds_keep_sites_whole():
    sites = [f"hospital {number % 11}" for number in range(120)]
    for train, test in survival_folds(changed(drawn(), sites=sites), folds=5, seed=1):
        assert not {sites[row] for row in train} & {sites[row] for row in test}


def test_slides_of_a_patient_become_one_bag():
    slides = [np.full((size, 2), number) for number, size in enumerate((3, 1, 2))]
    time, event = np.array([5.0, 7, 5]), np.array([1, 0, 1])
    cohort = by_patient(slides, patients=["a", "b", "a"], time=time, event=event)
    assert cohort.ids == ["a", "b"]
    assert cohort.bags(np.arange(2))[0][:, 0].tolist() == [0, 0, 0, 2, 2]
    np.testing.assert_allclose(cohort.pooled(np.arange(2)), [[0.8, 0.8], [1, 1]])
    assert cohort.time.tolist() == [5, 7]
    with pytest.raises(EvaluationError, match="slides of patient 'a' disagree"):
        by_patient(slides, patients=["a", "b", "a"], time=np.array([5.0, 7, 6]), event=event)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event": np.zeros(120, int)}, "all 120 patients are censored"),
        ({"event": np.full(120, 2)}, "events must be 0 or 1"),
        ({"time": np.full(120, -1.0)}, "120 survival times are negative or not finite"),
        ({"time": np.full(120, np.nan)}, "not finite, first of 'patient 0'"),
        ({"features": np.full((120, 2), np.nan)}, "features: 120 of 120 rows have values that are not finite"),
        ({"features": [np.ones((1, 3))] * 119 + [np.ones((0, 3))]}, "bag 119 has no patch"),
        ({"features": [np.ones((1, 3))] * 119 + [np.ones((1, 2))]}, "differ in the width"),
        ({"ids": ["same"] * 120}, "119 patients are there more than once"),
        ({"time": np.ones(3)}, "differ in length"),
    ],
)
def test_cohorts_that_tell_nothing_are_refused(changes, message):
    with pytest.raises(EvaluationError, match=message):
        changed(drawn(), **changes)


@pytest.mark.parametrize(
    ("changes", "folds", "message"),
    [
        ({"event": (np.arange(120) < 3).astype(int)}, 5, "3 events among 120 patients are too few for 5 folds"),
        ({"sites": ["one", "two"] * 60}, 5, "2 sites are too few for 5 folds"),
        ({"sites": ["one"] * 60 + ["two"] * 60, "event": (np.arange(120) < 9).astype(int)}, 2, "are censored"),
        ({"time": np.ones(120), "event": np.ones(120, int)}, 5, "fold 1: no two of its 24 test patients"),
        ({"features": np.ones((120, 3))}, 5, "the same features"),
        ({}, 1, "at least 2 folds, not 1"),
    ],
)
def test_splits_that_tell_nothing_are_refused(changes, folds, message):
    with pytest.raises(EvaluationError, match=message):
        survival_cox(changed(drawn(), **changes), split=CrossValidation(folds=folds))


@pytest.mark.filterwarnings("ignore")
def test_validation_chooses_the_penalizer_by_lifelines_own_likelihood_and_tests_nothing():
    cohort = drawn(200, width=25, signal=1.0)
    train, val, test = np.arange(60), np.arange(60, 120), np.arange(120, 200)
    table = pd.DataFrame(np.asarray(cohort.features)).add_prefix("x").assign(T=cohort.time, E=cohort.event)
    likelihood = {
        penalizer: CoxPHFitter(penalizer=penalizer)
        .fit(table.iloc[train], "T", "E")
        .score(table.iloc[val], scoring_method="log_likelihood")
        for penalizer in PENALIZERS
    }
    expected = max(likelihood, key=likelihood.get)
    assert PENALIZERS[0] < expected
    found = survival_cox(cohort, split=(train, test), val=val)
    assert found.details["penalizer"] == expected
    assert found.details["penalizer_chosen_by"] == "validation"
    assert found.details["split"] == {"kind": "given", "num_val": 60}
    assert found.details["num_train"] == [60]
    assert found.predictions.ids == [cohort.ids[row] for row in test]
    assert found.metrics["harrell_c"] == pytest.approx(lifelines_c(cohort, [(train, test)], expected)[0], abs=1e-12)
    parts = [(np.asarray(cohort.features)[rows], cohort.time[rows], cohort.event[rows]) for rows in (train, val)]
    assert chosen_penalizer(*parts) == expected


def test_validation_chooses_the_epoch_of_abmil():
    cohort = drawn(150, bags=True)
    train, val, test = np.arange(70), np.arange(70, 110), np.arange(110, 150)
    long = replace(QUICK, epochs=30, patience=5)
    stopped = survival_abmil(cohort, split=(train, test), val=val, settings=long)
    (epoch,) = stopped.details["best_epochs"]
    # The epoch that is kept is the last one of a run that makes so many.
    again = survival_abmil(cohort, split=(train, test), settings=replace(QUICK, epochs=epoch))
    np.testing.assert_allclose(
        stopped.predictions.columns["risk"], again.predictions.columns["risk"], rtol=1e-5, atol=1e-6
    )


def test_validation_without_an_event_chooses_nothing_and_folds_have_none():
    cohort = drawn()
    event = cohort.event.copy()
    event[80:90] = 0
    train, val, test = np.arange(80), np.arange(80, 90), np.arange(90, 120)
    found = survival_cox(changed(cohort, event=event), split=(train, test), val=val)
    assert (found.details["penalizer"], found.details["penalizer_chosen_by"]) == (0.1, "default")
    with pytest.raises(EvaluationError, match="belong to a split that is given"):
        survival_cox(cohort, val=val)
    with pytest.raises(EvaluationError, match="10 groups are in both train and val"):
        survival_cox(cohort, split=(np.arange(90), test), val=val)


def test_subgroups_of_patients_have_their_own_concordance():
    cohort = drawn(160)
    wards = [("north", "south")[number % 2] for number in range(160)]
    found = survival_cox(replace(cohort, subgroups={"ward": wards}), split=(np.arange(80), np.arange(80, 160)))
    inside = np.arange(80, 160) % 2 == 0
    columns = found.predictions.columns
    expected = concordance_index(columns["time"][inside], -columns["risk"][inside], columns["event"][inside])
    assert found.metrics["harrell_c[ward=north]"] == pytest.approx(expected)
    assert found.details["subgroups"]["ward"]["north"] == {"n": 40, "metric": "harrell_c[ward=north]"}
