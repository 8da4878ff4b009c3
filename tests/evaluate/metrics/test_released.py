"""F1, precision and recall of the released evaluator against scikit-learn, with weights against repeated items."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from evaluate.metrics.registry import METRICS

RULES = {
    "official_f1": sk.f1_score,
    "official_precision": sk.precision_score,
    "official_recall": sk.recall_score,
}


def expected(name, target, said, *, average):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a class without a prediction and takes 0
        return RULES[name](target, said, average=average)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("never_said", [False, True])
def test_they_are_scikit_learns_on_every_resample(name, classes, never_said):
    rng = np.random.default_rng(classes)
    target = rng.integers(0, classes, 40)
    score = rng.random((40, classes)) + 0.4 * np.eye(classes)[target]
    score[:, 1] -= 5 * never_said
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=30)
    weights[0] = 1
    average = "binary" if classes == 2 else "macro"
    found = METRICS[name]({"target": target, "score": score}, weights)
    for value, row in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(40), row)
        assert value == pytest.approx(expected(name, target[rows], score.argmax(axis=1)[rows], average=average))


def test_of_two_classes_label_1_counts_whatever_it_means():
    target, score = np.array([0, 0, 0, 1]), np.eye(2)[[0, 0, 1, 1]]
    found = {name: METRICS[name]({"target": target, "score": score}, np.ones((1, 4)))[0] for name in RULES}
    assert found == pytest.approx({"official_f1": 2 / 3, "official_precision": 0.5, "official_recall": 1.0})
