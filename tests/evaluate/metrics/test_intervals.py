"""Intervals of metrics: a library's where items are counted, wider where few decide, marked where too few do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from evaluate.metrics.bootstrap import Resampling, natural_mode, resampled
from evaluate.metrics.clinical import calibration_bins
from evaluate.metrics.intervals import (
    ITEMS_TO_TRUST,
    OTHERS_TO_TRUST,
    Basis,
    adjusted_interval,
    basis_of,
    caution_of,
    intervals_of,
)
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS, metrics_named


def collapsed(count=400, *, right=170, clusters=None):
    """A model that says class 0 for nearly all items, as on RetinaMNIST."""
    target = np.repeat([0, 1, 2, 3, 4], [174, 46, 92, 68, 20])[:count]
    said = np.zeros(count, int)
    said[np.flatnonzero(target == 0)[right:]] = 1
    return Predictions(
        ids=[str(item) for item in range(count)],
        columns={"target": target, "score": np.eye(5)[said]},
        strata="target",
        clusters=clusters,
    )


def found(predictions, *names, mode=None, resamples=500):
    mode = mode or natural_mode(predictions)
    ones = np.ones((1, len(predictions.ids)))
    metrics = metrics_named(names)
    values = {name: float(metric(predictions.columns, ones)[0]) for name, metric in metrics.items()}
    samples = resampled(predictions, metrics, Resampling(mode=mode, seed=1, resamples=resamples))
    return intervals_of(values, samples, predictions, mode=mode)


def ends(interval):
    return interval.low, interval.high


def test_accuracy_has_agresti_and_coulls_interval_also_for_a_collapsed_model():
    one = found(collapsed(), "accuracy")["accuracy"]
    assert one.method == "agresti_coull"
    assert ends(one) == pytest.approx(proportion_confint(170, 400, method="agresti_coull"))
    assert ends(one) == pytest.approx((0.377, 0.474), abs=5e-4)


@pytest.mark.parametrize("count", [40, 100, 200])
def test_a_share_is_held_often_enough_whatever_it_is(count):
    basis = Basis(items=(count,), independent=(count,))
    right = np.arange(count + 1)
    lows, highs = np.transpose([ends(adjusted_interval(n / count, np.zeros(2), basis, exact=True)) for n in right])
    for share in np.linspace(0.02, 0.98, 961):
        held = binom.pmf(right, count, share)[(lows <= share) & (share <= highs)].sum()
        assert held >= 0.933


def test_what_holds_class_counts_fixed_keeps_its_percentiles():
    for mode in ("stratified", "official"):
        one = found(collapsed(), "accuracy", mode=mode)["accuracy"]
        assert one.method == "percentile"


def test_correct_answers_of_patients_count_as_fewer_items():
    alone, joined = collapsed(), collapsed(clusters=[str(item // 8) for item in range(400)])
    # All items of a patient are right or wrong together but for two patients: about 50 items, with t of 49 degrees.
    one, other = (found(given, "accuracy")["accuracy"] for given in (alone, joined))
    assert (one.method, other.method) == ("agresti_coull", "effective_agresti_coull")
    assert (other.high - other.low) / (one.high - one.low) == pytest.approx(np.sqrt(8), rel=0.1)


def test_a_perfect_number_has_an_interval():
    target = np.arange(40) % 2
    perfect = Predictions(ids=[str(item) for item in range(40)], columns={"target": target, "score": np.eye(2)[target]})
    for name, one in found(perfect, "accuracy", "auroc", "macro_f1", "balanced_accuracy").items():
        assert one.high == 1, name
        assert 0.85 < one.low < 0.93, name


def test_the_adjusted_interval_is_wilsons_for_the_items_that_the_spread_stands_for():
    rng = np.random.default_rng(0)
    samples = rng.normal(0.8, np.sqrt(0.8 * 0.2 / 60), 200_000)
    basis = Basis(items=(5000.0, 5000.0), independent=(5000.0, 5000.0))
    expected = proportion_confint(0.8 * 60, 60, method="agresti_coull")
    assert ends(adjusted_interval(0.8, samples, basis)) == pytest.approx(expected, abs=2e-3)


def test_a_spread_of_nothing_is_not_believed():
    """A collapsed model's balanced accuracy hardly varies over resamples, however few items decide it."""
    basis = Basis(items=(36.0, 4.0), independent=(36.0, 4.0))
    assert basis.effective == pytest.approx(4 / (1 / 36 + 1 / 4))
    one = adjusted_interval(0.5, np.full(100, 0.5), basis)
    assert one.high - one.low > 0.4


def test_a_mean_squared_deviation_includes_the_bias_of_resamples():
    basis = Basis(items=(1000.0,), independent=(1000.0,))
    rng = np.random.default_rng(0)
    widths = [np.subtract(*ends(adjusted_interval(0.5, rng.normal(mean, 0.05, 5000), basis))) for mean in (0.5, 0.55)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(2), rel=0.06)


@pytest.mark.parametrize(
    ("name", "columns", "items"),
    [
        ("accuracy", {"target": np.array([0, 0, 1])}, (3,)),
        ("macro_f1", {"target": np.array([0, 0, 2])}, (2, 1)),
        ("auroc", {"target": np.array([[1, 0], [0, 0], [0, 0]])}, (1, 2)),
        ("label_accuracy", {"target": np.array([[1, 0], [0, 0], [0, 0]])}, (3, 3)),
        ("group_accuracy", {"group": np.array(["a", "b", "b"]), "target": np.arange(3)}, (1, 2)),
        ("accuracy@b", {"group": np.array(["a", "b", "b"]), "target": np.arange(3)}, (2,)),
        ("t2i_recall_at_5", {"side": np.array([0, 1, 1])}, (2,)),
        ("mean_recall", {"side": np.array([0, 1, 1])}, (1, 2)),
        ("vqa_closed", {"closed": np.array([1, 0, 0]), "target": np.arange(3)}, (1,)),
        ("vqa_overall", {"closed": np.array([1, 0, 0]), "target": np.arange(3)}, (3,)),
        ("harrell_c", {"event": np.array([1, 0, 0])}, (2, 1)),
        ("sensitivity", {"positive": np.array([1, 0, 0]), "target": np.arange(3)}, (1,)),
        ("ppv", {"flagged": np.array([1, 0, 1]), "target": np.arange(3)}, (2,)),
        ("brier", {"target": np.arange(3)}, (6,)),
        ("macro_f1[sex=F]", {"subgroup@sex": np.array(["F", "F", "M"]), "target": np.array([0, 1, 1])}, (1, 1)),
    ],
)
def test_a_metric_rests_on_the_items_of_its_parts(name, columns, items):
    assert basis_of(name, columns, None).items == items


def test_late_events_of_uno_count_by_their_weight():
    columns = {"event": np.array([1, 1, 1, 0, 0]), "uno_weight": np.array([1.0, 1.0, 5.0, 9.0, 9.0])}
    assert basis_of("uno_c", columns, None).items == (2, pytest.approx(49 / 27))


def test_independent_items_are_clusters():
    clusters = np.array([0, 0, 1, 1, 2])
    basis = basis_of("auroc", {"target": np.array([0, 0, 0, 1, 1])}, clusters)
    assert (basis.items, basis.independent, basis.rarest) == ((3, 2), (2, 2), 2)


def test_too_few_items_of_a_class_are_marked_with_their_number():
    rare = Predictions(
        ids=[str(item) for item in range(60)],
        columns={"target": (np.arange(60) < 4) * 1, "score": np.random.default_rng(0).random((60, 2))},
    )
    marked = found(rare, "accuracy", "auroc", "average_precision")
    assert marked["accuracy"].caution is None
    assert marked["auroc"].caution == (f"rests on 4 independent items of the rarest kind, fewer than {OTHERS_TO_TRUST}")
    assert str(ITEMS_TO_TRUST["average_precision"]) in marked["average_precision"].caution


@pytest.mark.parametrize(
    ("name", "least"),
    [("auroc", 5), ("average_precision", 25), ("brier", 15), ("i2t_median_rank", 15), ("t2i_median_rank", 15)],
)
def test_a_number_is_to_be_trusted_from_the_size_that_the_document_has(name, least):
    few, enough = (Basis(items=(count,), independent=(count, 100.0)) for count in (least - 1, least))
    assert f"fewer than {least}" in caution_of(name, few)
    assert caution_of(name, enough) is None


def test_a_calibration_error_is_always_marked():
    rng = np.random.default_rng(0)
    probability = rng.random(2000)
    target = (rng.random(2000) < probability) * 1
    calibrated = Predictions(
        ids=[str(item) for item in range(2000)],
        columns={
            "target": target,
            "score": np.stack([1 - probability, probability], axis=1),
            "bin": calibration_bins(probability),
        },
    )
    marked = found(calibrated, "ece", "brier", resamples=50)
    # The model is calibrated, but the interval leaves out 0 by chance.
    assert marked["ece"].low > 0
    assert marked["ece"].caution == "is above the truth by chance, and its resamples more so"
    assert marked["brier"].caution is None


def test_a_median_rank_has_percentiles():
    ranked = Predictions(
        ids=[str(item) for item in range(40)],
        columns={"rank": np.arange(1, 41), "side": np.repeat([0, 1], 20)},
        clusters=[str(item % 20) for item in range(40)],
    )
    assert found(ranked, "i2t_median_rank")["i2t_median_rank"].method == "percentile"
    assert found(ranked, "i2t_recall_at_5")["i2t_recall_at_5"].method == "effective_agresti_coull"


def test_every_metric_has_an_interval_on_its_own_columns():
    assert set(ITEMS_TO_TRUST) <= set(METRICS)


def test_a_median_rank_of_one_is_no_share():
    # 28 of 50 captions are found at once: a few others would make the median 3, and none can make it less than 1.
    rank = np.repeat([1, 3], [28, 22])
    ranked = Predictions(ids=[str(item) for item in range(50)], columns={"rank": rank, "side": np.zeros(50, int)})
    one = found(ranked, "i2t_median_rank")["i2t_median_rank"]
    assert (one.method, *ends(one)) == ("percentile", 1, 3)


def test_a_brier_score_of_several_classes_is_a_share_of_two():
    """Sure of the wrong class it is 2, so an interval that ends at 1 held too few true values."""
    rng = np.random.default_rng(0)
    target, sure = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    wrong = (target != sure).sum()
    columns = {"target": target, "score": np.eye(3)[sure]}
    one = found(Predictions(ids=[str(item) for item in range(40)], columns=columns), "brier", resamples=20_000)["brier"]
    low, high = proportion_confint(wrong, 40, method="agresti_coull")
    assert one.value == pytest.approx(2 * wrong / 40)
    # That of the share of wrong items, twice, but for the quantile, which is Student's t of the rarest class.
    assert one.low < 2 * low < 2 * high < one.high < 2
    assert (one.low, one.high) == pytest.approx((2 * low, 2 * high), abs=0.1)
