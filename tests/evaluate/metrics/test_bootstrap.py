from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from evaluate.metrics.bootstrap import (
    Interval,
    Resampling,
    interval,
    natural_mode,
    resampled,
    resampling_for,
    weight_blocks,
)
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS
from store.errors import EvaluationError

CLASSES = 3


def predictions(count=60, *, clusters=None, strata="target", seed=0):
    generator = np.random.default_rng(seed)
    target = np.sort(generator.integers(0, CLASSES, count))
    generator.shuffle(target)
    score = generator.random((count, CLASSES)) + 0.8 * np.eye(CLASSES)[target]
    return Predictions(
        ids=[f"i{item}" for item in range(count)],
        clusters=clusters,
        columns={"target": target, "score": score},
        strata=strata,
    )


def weights_of(mode, given, *, resamples=40, seed=7, **options):
    return np.concatenate(list(weight_blocks(Resampling(mode=mode, seed=seed, resamples=resamples), given, **options)))


def released_indices(targets, generator):
    """MMKD-CLIP's rule, in the order in which its evaluation draws: one of each class, then the rest from all."""
    firsts = [generator.choice(np.flatnonzero(targets == label)) for label in np.unique(targets)]
    return np.array([*firsts, *generator.integers(0, len(targets), size=len(targets) - len(firsts))])


def multiplicities(indices, count):
    return np.bincount(indices, minlength=count)


def test_official_resamples_are_those_of_the_released_rule():
    given = predictions()
    resampling = resampling_for("official", split_digest="any", resamples=50)
    generator = np.random.default_rng(42)
    expected = [multiplicities(released_indices(given.columns["target"], generator), 60) for _ in range(50)]
    assert resampling.seed == 42
    np.testing.assert_array_equal(np.concatenate(list(weight_blocks(resampling, given))), expected)


def test_plain_resamples_are_those_of_a_loop():
    generator = np.random.default_rng(7)
    expected = [multiplicities(generator.integers(0, 60, 60), 60) for _ in range(40)]
    np.testing.assert_array_equal(weights_of("plain", predictions()), expected)


def test_a_stratified_resample_has_as_many_items_of_each_class_as_the_test_set():
    given = predictions()
    weights = weights_of("stratified", given)
    for label in range(CLASSES):
        of_class = given.columns["target"] == label
        np.testing.assert_array_equal(weights[:, of_class].sum(axis=1), of_class.sum())
    assert len(np.unique(weights, axis=0)) == len(weights)


def test_within_a_class_each_item_is_drawn_equally_often():
    given = predictions(30)
    weights = weights_of("stratified", given, resamples=20_000)
    # Of n draws out of n an item is drawn once on average, with variance 1 - 1/n.
    assert np.abs(weights.mean(axis=0) - 1).max() < 5 * np.sqrt(1 / 20_000)


def test_a_resample_by_clusters_takes_all_of_a_patient_or_none():
    clusters = [f"p{item // 4}" for item in range(60)]
    weights = weights_of("cluster", predictions(clusters=clusters)).reshape(40, 15, 4)
    assert (weights == weights[:, :, :1]).all()
    np.testing.assert_array_equal(weights[:, :, 0].sum(axis=1), 15)


@pytest.mark.parametrize("mode", ["official", "stratified", "cluster", "plain"])
def test_resamples_depend_neither_on_the_block_size_nor_on_how_many_there_are(mode):
    given = predictions(clusters=[f"p{item // 3}" for item in range(60)])
    whole = weights_of(mode, given)
    np.testing.assert_array_equal(weights_of(mode, given, entries=7 * 60), whole)
    np.testing.assert_array_equal(weights_of(mode, given, resamples=90)[:40], whole)


def test_resamples_are_the_same_for_all_models_and_others_for_another_split():
    one, other = predictions(seed=1), predictions(seed=1)
    other.columns["score"] = other.columns["score"][::-1]
    first = resampling_for("stratified", split_digest="split-a")
    assert first == resampling_for("stratified", split_digest="split-a")
    assert first.seed != resampling_for("stratified", split_digest="split-b").seed
    assert np.array_equal(*(weights_of("stratified", given, seed=first.seed) for given in (one, other)))


@pytest.mark.parametrize(("mode", "missing"), [("cluster", "patient"), ("stratified", "class"), ("official", "class")])
def test_a_mode_that_lacks_what_it_needs_is_refused(mode, missing):
    with pytest.raises(EvaluationError, match=missing):
        weights_of(mode, predictions(strata=None))


def test_the_natural_mode_keeps_what_belongs_together():
    alone = [f"p{item}" for item in range(60)]
    assert natural_mode(predictions(clusters=["p", *alone[1:-1], "p"])) == "cluster"
    # A test set could have had other shares of its classes: they are not held fixed unless asked for.
    assert natural_mode(predictions(clusters=alone)) == natural_mode(predictions()) == "plain"


def test_values_on_resamples_are_those_of_a_library_on_the_repeated_items():
    given = predictions()
    target, score = given.columns["target"], given.columns["score"]
    resampling = Resampling(mode="stratified", seed=3, resamples=25)
    found = resampled(given, {"auroc": METRICS["auroc"], "accuracy": METRICS["accuracy"]}, resampling)
    chances = score / score.sum(axis=1, keepdims=True)
    for row, weights in enumerate(np.concatenate(list(weight_blocks(resampling, given))).astype(int)):
        items = np.repeat(np.arange(60), weights)
        # One against the rest needs no scores that add up to 1, scikit-learn's check of several classes does.
        columns = [roc_auc_score(target[items] == label, score[items, label]) for label in range(CLASSES)]
        assert found["auroc"][row] == pytest.approx(np.mean(columns))
        assert found["accuracy"][row] == pytest.approx((chances[items].argmax(1) == target[items]).mean())


def test_the_plain_interval_agrees_with_scipys():
    given = predictions(300)
    correct = (given.columns["score"].argmax(axis=1) == given.columns["target"]).astype(float)
    samples = resampled(given, {"accuracy": METRICS["accuracy"]}, Resampling(mode="plain", seed=1, resamples=20_000))[
        "accuracy"
    ]
    ours = interval(float(correct.mean()), samples)
    scipys = stats.bootstrap(
        (correct,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # A percentile of 20,000 draws varies by less than half an item in 300.
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=0.5 / 300 + 1e-9)


def test_failed_resamples_are_counted_and_left_out():
    samples = np.array([0.1, np.nan, 0.2, 0.3, np.nan, np.inf])
    found = interval(0.2, samples)
    assert (found.resamples, found.failed) == (6, 3)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile([0.1, 0.2, 0.3], [2.5, 97.5])))


def test_a_metric_that_no_resample_defines_has_no_interval():
    found = interval(float("nan"), np.full(5, np.nan))
    assert (found.value, found.low, found.high, found.failed) == (None, None, None, 5)


def test_an_interval_of_one_end_or_turned_round_is_refused():
    for low, high in ((0.3, None), (None, 0.3), (0.4, 0.3)):
        with pytest.raises(ValueError, match="interval"):
            Interval(value=0.3, low=low, high=high, resamples=10, failed=0)


def test_a_number_is_shown_with_its_interval():
    assert str(interval(0.2, np.array([0.1, 0.2, 0.3]))) == "0.200 [0.105, 0.295]"
    assert str(interval(float("nan"), np.full(1000, np.nan))) == "undefined [no interval: all 1,000 resamples failed]"
    doubtful = Interval(value=0.2, low=0.1, high=0.3, resamples=10, failed=0, caution="few items")
    assert str(doubtful) == "0.200 [0.100, 0.300] (not to be trusted)"


def test_a_rare_class_fails_plain_resamples_and_no_official_one():
    target = np.array([1] + [0] * 39)
    given = Predictions(
        ids=[str(item) for item in range(40)],
        columns={
            "target": target,
            "score": np.stack([1.0 - target, target], axis=1),
            "margin": target * 1.0,
            "positive": target == 1,
        },
        strata="target",
    )
    count = partial(resampled, given, {"auroc": METRICS["auroc"]})
    failed = {
        mode: interval(1.0, count(Resampling(mode=mode, seed=42, resamples=500))["auroc"]).failed
        for mode in ("plain", "official", "stratified")
    }
    # The one item is left out of a share (1 - 1/40)^40 = 0.363 of the resamples, give or take 0.022.
    assert failed["plain"] / 500 == pytest.approx((1 - 1 / 40) ** 40, abs=0.08)
    assert failed["official"] == failed["stratified"] == 0
