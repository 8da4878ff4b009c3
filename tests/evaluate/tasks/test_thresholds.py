"""Thresholds against scikit-learn's ROC curve, and what results say of decisions, calibration and subgroups."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score, roc_curve

from evaluate.tasks.fitting.thresholds import Deciding, threshold_of
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe, linear_probe
from evaluate.tasks.zero_shot import zero_shot
from store.errors import EvaluationError

CLASSES = ["benign", "malignant"]


def scored(items=200, *, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    positive = rng.uniform(size=items) < 0.3
    return rng.normal(size=items) + 1.5 * positive + shift, positive


@pytest.mark.parametrize("seed", range(4))
def test_youdens_threshold_is_the_best_point_of_scikit_learns_curve(seed):
    margin, positive = scored(seed=seed, shift=-2.0)
    false, true, _ = roc_curve(positive, margin)
    found = threshold_of(margin, positive, sensitivity=None)
    flagged = margin >= found
    reached = flagged[positive].mean() - flagged[~positive].mean()
    assert reached == pytest.approx((true - false).max(), abs=1e-12)
    assert np.abs(margin - found).min() > 0


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95, 0.999])
def test_a_threshold_of_a_sensitivity_reaches_it_and_the_next_larger_does_not(wanted):
    margin, positive = scored()
    found = threshold_of(margin, positive, sensitivity=wanted)
    assert (margin[positive] >= found).mean() >= wanted
    larger = margin[margin >= found].min() + 1e-9
    assert (margin[positive] >= larger).mean() <= (margin[positive] >= found).mean()
    false, true, _ = roc_curve(positive, margin, drop_intermediate=False)
    assert (margin[~positive] >= found).mean() == false[np.flatnonzero(true >= wanted)[0]]


def test_validation_of_one_class_chooses_nothing():
    margin, positive = scored()
    assert threshold_of(margin[positive], positive[positive], sensitivity=None) is None


@pytest.mark.parametrize("changes", [{"sensitivity": 1.0}, {"prevalence": 0.0}])
def test_shares_that_are_none_are_refused(changes):
    with pytest.raises(EvaluationError, match="expected a share above 0 and below 1"):
        Deciding(**changes)


def split(name, items, *, seed=0):
    """Images around two class embeddings, so shifted that the class that scores more is a bad decision."""
    rng = np.random.default_rng([seed, *name.encode()])
    target = (rng.uniform(size=items) < 0.3).astype(int)
    features = rng.normal(size=(items, 4))
    features[:, 0] += 2.0 + 1.5 * target
    features[:, 1] += 4.0
    return LabelledFeatures(
        ids=[f"{name} {row}" for row in range(items)],
        features=features,
        target=target,
        subgroups={"sex": list(np.array(["F", "M"])[rng.integers(2, size=items)]), "ward": ["x"] * (items - 1) + ["y"]},
    )


TEXTS = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0]])


def test_zero_shot_decides_at_the_threshold_of_validation_and_the_record_says_which():
    test, val = split("test", 150), split("val", 120)
    found = zero_shot(test, class_CE=TEXTS, classes=CLASSES, logit_scale=10.0, val=val)
    unit = val.features / np.linalg.norm(val.features, axis=1, keepdims=True)
    expected = threshold_of(10 * (unit[:, 0] - unit[:, 1]), val.target == 1, sensitivity=None)
    (chosen,) = found.details["threshold"]["margin"]
    assert chosen == pytest.approx(expected, abs=1e-5)
    assert found.details["threshold"]["by"] == "Youden's J on validation"
    assert found.details["threshold"]["num_val"] == [120]
    flagged = found.predictions.columns["margin"] >= chosen
    (tn, fp), (fn, tp) = confusion_matrix(test.target, flagged)
    rates = [tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)]
    assert [found.metrics[name] for name in ("sensitivity", "specificity", "ppv", "npv")] == pytest.approx(rates)
    without = zero_shot(test, class_CE=TEXTS, classes=CLASSES, logit_scale=10.0)
    assert without.details["threshold"]["by"] == "the class that scores more"
    assert without.details["threshold"]["probability"] == [0.5]
    said = without.predictions.columns["score"].argmax(axis=1)
    assert without.metrics["sensitivity"] == pytest.approx(recall_score(test.target, said))
    gained = found.metrics["sensitivity"] + found.metrics["specificity"]
    assert gained > without.metrics["sensitivity"] + without.metrics["specificity"]
    assert found.metrics["auroc"] == without.metrics["auroc"]


def test_a_stated_sensitivity_and_prevalence_are_used_and_said():
    test, val = split("test", 150), split("val", 120)
    deciding = Deciding(sensitivity=0.9, prevalence=0.02)
    found = zero_shot(test, class_CE=TEXTS, classes=CLASSES, logit_scale=10.0, val=val, deciding=deciding)
    plain = zero_shot(test, class_CE=TEXTS, classes=CLASSES, logit_scale=10.0, val=val)
    assert found.details["threshold"]["by"] == "sensitivity 0.9 on validation"
    assert found.details["prevalence"] == {"value": 0.02, "by": "the dataset's entry"}
    assert plain.details["prevalence"]["by"] == "the share of the test items"
    sensitivity, specificity = found.metrics["sensitivity"], found.metrics["specificity"]
    assert sensitivity > 0.75
    expected = 0.02 * sensitivity / (0.02 * sensitivity + 0.98 * (1 - specificity))
    assert found.metrics["ppv"] == pytest.approx(expected)


def test_subgroups_have_the_primary_metric_of_their_items_and_where_it_is_undefined_none():
    test = split("test", 150)
    found = zero_shot(test, class_CE=TEXTS, classes=CLASSES, logit_scale=10.0)
    sex = np.array(test.subgroups["sex"])
    parts = found.details["subgroups"]
    for value in ("F", "M"):
        rows = sex == value
        assert parts["sex"][value] == {"n": rows.sum(), "metric": f"auroc[sex={value}]"}
        expected = roc_auc_score(test.target[rows], found.predictions.columns["margin"][rows])
        assert found.metrics[f"auroc[sex={value}]"] == pytest.approx(expected)
    assert parts["ward"]["y"] == {"n": 1, "metric": None}
    assert "auroc[ward=y]" not in found.metrics
    json.dumps(found.details, allow_nan=False)


def test_a_reliability_plot_is_in_the_details_of_a_result():
    found = zero_shot(split("test", 150), class_CE=TEXTS, classes=CLASSES, logit_scale=10.0)
    bins = found.details["reliability"]["bins"]
    assert sum(one["n"] for one in bins) == 150
    assert all(13 <= one["n"] <= 17 for one in bins)
    gaps = [one["n"] * abs(one["probability"] - one["share"]) for one in bins]
    assert found.metrics["ece"] == pytest.approx(sum(gaps) / 150)
    assert [one["probability"] for one in bins] == sorted(one["probability"] for one in bins)


def test_a_probe_has_a_threshold_for_each_seed():
    train, val, test = split("train", 80), split("val", 60), split("test", 90)
    probe = Probe(shots=4, seeds=(0, 1, 2), strengths=(0.1, 1.0), positive="benign")
    found = linear_probe(train, test, classes=CLASSES, val=val, probe=probe)
    chosen = found.details["threshold"]["margin"]
    assert len(chosen) == len(set(chosen)) == 3
    assert found.details["threshold"]["num_val"] == [8, 8, 8]
    for place, value in enumerate(chosen):
        suffix = f".{place}" if place else ""
        margin = found.predictions.columns[f"margin{suffix}"]
        flagged = margin >= value
        assert found.seeds["sensitivity"][place] == pytest.approx(flagged[test.target == 0].mean())
