"""Decisions and probabilities against scikit-learn, statsmodels' definitions and counts done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from evaluate.metrics.clinical import BINS, calibration_bins
from evaluate.metrics.registry import METRICS, is_metric, metrics_named

ITEMS = 400


def drawn(seed=0, *, classes=2):
    rng = np.random.default_rng(seed)
    target = rng.integers(classes, size=ITEMS)
    logits = rng.normal(size=(ITEMS, classes)) + 1.5 * np.eye(classes)[target]
    score = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = {"target": target, "score": score}
    if classes > 2:
        return columns | {"bin": calibration_bins(score.max(axis=1))}
    margin = logits[:, 1] - logits[:, 0]
    binary = {"positive": target == 1, "margin": margin, "flagged": margin >= 0.4, "bin": calibration_bins(score[:, 1])}
    return columns | binary


def values(columns, *names, weight=None):
    weights = np.ones((1, ITEMS)) if weight is None else weight[None]
    return [float(METRICS[name](columns, weights)[0]) for name in names]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
def test_decisions_are_those_of_scikit_learns_confusion_matrix(seed, weighted):
    columns = drawn(seed)
    weight = np.random.default_rng(seed).integers(0, 4, size=ITEMS) if weighted else np.ones(ITEMS)
    (tn, fp), (fn, tp) = sk.confusion_matrix(columns["positive"], columns["flagged"], sample_weight=weight)
    found = values(columns, "sensitivity", "specificity", "ppv", "npv", weight=weight)
    assert found == pytest.approx([tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)], abs=1e-12)


def test_predictive_values_at_a_stated_prevalence_are_those_of_a_population_with_it():
    columns = drawn()
    wanted = 0.03
    positive = columns["positive"]
    # A population in which each test item stands for so many people that 3 % are positive.
    weight = np.where(positive, wanted / positive.mean(), (1 - wanted) / (~positive).mean())
    (tn, fp), (fn, tp) = sk.confusion_matrix(positive, columns["flagged"], sample_weight=weight)
    found = values(columns | {"prevalence": np.full(ITEMS, wanted)}, "ppv", "npv")
    assert found == pytest.approx([tp / (tp + fp), tn / (tn + fn)], abs=1e-12)


def test_predictive_values_where_nothing_or_everything_is_flagged_are_undefined():
    columns = drawn()
    assert np.isnan(values(columns | {"flagged": np.zeros(ITEMS, bool)}, "ppv"))
    assert np.isnan(values(columns | {"flagged": np.ones(ITEMS, bool)}, "npv"))


@pytest.mark.parametrize("classes", [2, 5])
def test_brier_is_scikit_learns(classes):
    columns = drawn(classes=classes)
    score = columns["score"][:, 1] if classes == 2 else columns["score"]
    weight = np.random.default_rng(1).integers(0, 3, size=ITEMS)
    for one in (np.ones(ITEMS), weight):
        expected = sk.brier_score_loss(columns["target"], score, sample_weight=one)
        assert values(columns, "brier", weight=one) == pytest.approx([expected], abs=1e-12)


def test_the_calibration_error_is_the_gap_of_scikit_learns_reliability_curve():
    columns = drawn()
    share, probability = calibration_curve(columns["target"], columns["score"][:, 1], n_bins=BINS, strategy="quantile")
    # Deciles of 400 distinct probabilities hold 40 items each.
    assert values(columns, "ece") == pytest.approx([np.abs(share - probability).mean()], abs=1e-12)


def test_the_calibration_error_of_several_classes_is_that_of_the_class_that_scores_highest():
    columns = drawn(classes=4)
    top, right = columns["score"].max(axis=1), columns["score"].argmax(axis=1) == columns["target"]
    share, probability = calibration_curve(right, top, n_bins=BINS, strategy="quantile")
    assert values(columns, "ece") == pytest.approx([np.abs(share - probability).mean()], abs=1e-12)


def test_probabilities_that_are_right_have_a_small_error_and_sharper_ones_a_larger():
    rng = np.random.default_rng(3)
    share = rng.uniform(size=20_000)
    target = (rng.uniform(size=20_000) < share).astype(int)
    found = []
    for p in (share, np.clip(1.6 * (share - 0.5) + 0.5, 0, 1)):
        columns = {"target": target, "score": np.stack([1 - p, p], axis=1), "bin": calibration_bins(p)}
        found.append(METRICS["ece"](columns, np.ones((1, len(p))))[0])
    assert found[0] < 0.015
    assert found[1] > 0.08


def test_equal_probabilities_share_a_bin():
    assert len(np.unique(calibration_bins(np.full(50, 0.3)))) == 1
    tied = np.repeat([0.1, 0.2, 0.9], [45, 3, 2])
    assert [len(np.unique(calibration_bins(tied)[tied == value])) for value in (0.1, 0.2, 0.9)] == [1, 1, 1]


def test_a_metric_of_a_subgroup_is_that_of_its_items_on_every_resample():
    columns = drawn() | {"subgroup@sex": np.array(["F", "M"])[np.arange(ITEMS) % 2]}
    weights = np.random.default_rng(2).integers(0, 3, size=(5, ITEMS))
    metric = metrics_named(["auroc[sex=F]"])["auroc[sex=F]"]
    found = metric(columns, weights)
    inside = columns["subgroup@sex"] == "F"
    for row, weight in enumerate(weights):
        expected = sk.roc_auc_score(columns["target"][inside], columns["margin"][inside], sample_weight=weight[inside])
        assert found[row] == pytest.approx(expected)
    assert metric.title == "AUROC, sex F"
    assert is_metric("brier[site=Ward 1, left]")
    assert not is_metric("auroc_of[sex=F]")
