"""The smaller runs of the simulations: coverage of intervals, errors of claims."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy.stats import binom

from evaluate.metrics.registry import METRICS

from .claim_errors import SCENARIOS, rates
from .coverage import LEAST, covered
from .drawn_predictions import KINDS, SKILL, Population

OFFICIAL = "official_"
"""Begin of the metrics that only the resamples of the released evaluator are asked for; their interval is its own."""


def pooled(kind, *, size=1, balance="9:1"):
    """Return, by metric, how many intervals of all models were trusted, and how many of those held the true value."""
    trusted, held = Counter(), Counter()
    for model in SKILL:
        of = Population(balance=balance, model=model, size=size)
        for name, hits in covered(kind, 100, of, repetitions=12, resamples=100).items():
            trusted[name] += hits.trusted
            held[name] += hits.held
    return trusted, held


@pytest.mark.parametrize("kind", KINDS)
def test_no_metric_is_held_less_often_than_it_should_by_more_than_chance(kind):
    trusted, held = pooled(kind)
    for name, count in trusted.items():
        assert held[name] >= binom.ppf(0.001, count, LEAST), (name, held[name], count)
    assert sum(trusted.values()) > 0


def test_items_of_patients_are_held_as_often():
    trusted, held = pooled("two classes", size=4, balance="balanced")
    for name in ("accuracy", "auroc", "macro_f1"):
        assert held[name] >= binom.ppf(0.001, trusted[name], LEAST)


def test_percentiles_fail_where_a_model_has_collapsed():
    """The simulation can tell: the old interval holds the balanced accuracy of a collapsed model in few test sets."""
    of = Population(balance="9:1", model="collapsed")
    hits = covered("two classes", 100, of, repetitions=60, resamples=100)["balanced_accuracy"]
    assert hits.percentile < 0.6 * hits.drawn
    assert hits.held > 0.9 * hits.trusted


def test_every_metric_is_simulated():
    simulated = {name for _, names in KINDS.values() for name in names}
    assert {name for name in METRICS if not name.startswith(OFFICIAL)} <= simulated


def test_a_student_no_better_than_its_teachers_is_seldom_called_so():
    assert rates(SCENARIOS["ten equal models"], repetitions=10, sets=2, resamples=200)[0] <= 0.05
    worst = rates(SCENARIOS["one equal teacher, eight far worse"], repetitions=25, sets=2, resamples=200)
    assert worst[0] <= binom.ppf(0.99, 25, 0.05) / 25
    # Some teacher is beaten nearly always; that is no claim.
    assert worst[2] > 0.9


def test_a_student_that_is_better_is_called_so():
    assert rates(SCENARIOS["student better, nine equal teachers"], repetitions=6, sets=2, resamples=200)[0] > 0.5
