"""Metrics against scikit-learn, torchmetrics and loops, on data with ties; weights against repeating the items."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_auroc

from evaluate.metrics.clinical import calibration_bins
from evaluate.metrics.registry import METRICS, metrics_named, seed_views
from evaluate.metrics.registry import classification as metrics_classification
from store.errors import EvaluationError

ITEMS, RESAMPLES = 60, 7
RELEASED = ("official_f1", "official_precision", "official_recall")
SINGLE = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision")


def single_label(classes, *, items=ITEMS, seed=0):
    """Scores in tenths, so that there are many ties."""
    rng = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), rng.integers(classes, size=items - classes)])
    score = rng.normal(size=(items, classes)) + np.eye(classes)[target]
    return {"target": target, "score": np.round(score, 1)}


def several_labels(labels, *, items=ITEMS, seed=1):
    rng = np.random.default_rng(seed)
    target = rng.integers(2, size=(items, labels))
    return {"target": target, "score": np.round(np.clip(0.3 * target + rng.uniform(size=(items, labels)), 0, 1), 1)}


def ranked(*, items=ITEMS, seed=2):
    rng = np.random.default_rng(seed)
    return {"rank": rng.geometric(0.2, size=items), "side": rng.integers(2, size=items)}


def answered(*, items=ITEMS, seed=3):
    rng = np.random.default_rng(seed)
    return {"correct": rng.integers(2, size=items), "closed": rng.integers(2, size=items)}


def lived(*, items=ITEMS, seed=4):
    rng = np.random.default_rng(seed)
    return {
        "time": rng.integers(1, 20, size=items),
        "event": rng.integers(2, size=items),
        "risk": np.round(rng.normal(size=items), 1),
        "uno_weight": rng.integers(0, 4, size=items) / 2,
        "fold": rng.integers(3, size=items),
    }


def decided(*, items=ITEMS, seed=6, prevalence=None):
    """Two classes with probabilities in tenths and a decision; class 0 is the positive one."""
    rng = np.random.default_rng(seed)
    target = rng.integers(2, size=items)
    positive_share = np.round(np.clip(0.4 * (target == 0) + 0.7 * rng.uniform(size=items), 0, 1), 1)
    found = {
        "target": target,
        "score": np.stack([positive_share, 1 - positive_share], axis=1),
        "margin": positive_share - 0.5,
        "positive": target == 0,
        "flagged": positive_share >= 0.6,
        "bin": calibration_bins(positive_share),
    }
    return found if prevalence is None else found | {"prevalence": np.full(items, prevalence)}


def in_groups(*, items=ITEMS, seed=5):
    group = np.array(["ct", "mri", "oct"])[np.random.default_rng(seed).integers(3, size=items)]
    return {**single_label(4, items=items, seed=seed), "group": group}


def ones(columns):
    return np.ones((1, len(next(iter(columns.values())))), np.int64)


def value(name, columns):
    return METRICS[name](columns, ones(columns))[0]


CASES = [
    *((name, single_label(classes)) for name in SINGLE for classes in (2, 5)),
    *((name, several_labels(4)) for name in ("auroc", "average_precision", "label_accuracy")),
    *((name, ranked()) for name in METRICS if name.startswith(("i2t", "t2i", "mean_recall"))),
    *((name, answered()) for name in METRICS if name.startswith("vqa")),
    *((name, single_label(classes)) for name in RELEASED for classes in (2, 5)),
    ("group_accuracy", in_groups()),
    *((name, decided()) for name in ("sensitivity", "specificity", "ppv", "npv", "brier", "ece")),
    *((name, decided(prevalence=0.05)) for name in ("ppv", "npv")),
    ("brier", single_label(4)),
    *((name, lived()) for name in ("harrell_c", "uno_c")),
]


def test_every_metric_is_among_the_cases():
    assert {name for name, _ in CASES} == set(METRICS)


@pytest.mark.parametrize(("name", "columns"), CASES)
def test_a_weight_is_as_good_as_repeating_the_item(name, columns):
    weights = np.random.default_rng(9).integers(0, 4, size=(RESAMPLES, ITEMS))
    found = METRICS[name](columns, weights)
    for row, weight in enumerate(weights):
        repeated = {column: np.repeat(values, weight, axis=0) for column, values in columns.items()}
        assert found[row] == pytest.approx(value(name, repeated), abs=1e-12)
    assert np.isfinite(found).all()
    assert len(set(found)) > 1
    assert found.dtype == np.float64


@pytest.mark.parametrize("name", ["auroc", "average_precision", "macro_f1", "i2t_median_rank"])
@pytest.mark.parametrize("block_bytes", [1, 8 * ITEMS * 3])
def test_a_metric_does_not_depend_on_how_resamples_are_put_into_blocks(name, block_bytes, monkeypatch):
    columns = {**single_label(4), **ranked()}
    weights = np.random.default_rng(5).integers(0, 4, size=(RESAMPLES, ITEMS)).astype(np.uint8)
    whole = METRICS[name](columns, weights)
    monkeypatch.setattr(metrics_classification, "BLOCK_BYTES", block_bytes)
    np.testing.assert_allclose(METRICS[name](columns, weights), whole, rtol=1e-14)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_classification_agrees_with_scikit_learn(classes, seed):
    columns = single_label(classes, seed=seed)
    target, said = columns["target"], columns["score"].argmax(axis=1)
    assert value("accuracy", columns) == pytest.approx(sk.accuracy_score(target, said))
    assert value("balanced_accuracy", columns) == pytest.approx(sk.balanced_accuracy_score(target, said))
    assert value("macro_f1", columns) == pytest.approx(sk.f1_score(target, said, average="macro"))


def test_auroc_and_precision_of_two_classes_are_those_of_the_difference_of_scores():
    columns = single_label(2)
    difference = columns["score"][:, 1] - columns["score"][:, 0]
    assert value("auroc", columns) == pytest.approx(sk.roc_auc_score(columns["target"], difference))
    expected = sk.average_precision_score(columns["target"], difference)
    assert value("average_precision", columns) == pytest.approx(expected)


def test_average_precision_of_two_classes_is_that_of_the_class_called_positive():
    columns = single_label(2)
    columns |= {"margin": columns["score"][:, 0] - columns["score"][:, 1], "positive": columns["target"] == 0}
    expected = sk.average_precision_score(columns["positive"], columns["margin"])
    assert value("average_precision", columns) == pytest.approx(expected)
    assert value("auroc", columns) == pytest.approx(sk.roc_auc_score(columns["positive"], columns["margin"]))


@pytest.mark.parametrize("classes", [3, 6])
def test_auroc_of_several_classes_is_the_mean_over_each_against_the_rest(classes):
    columns = single_label(classes)
    score = np.round(np.exp(columns["score"]), 1)
    share = score / score.sum(axis=1, keepdims=True)
    found = value("auroc", {**columns, "score": share})
    expected = sk.roc_auc_score(columns["target"], share, multi_class="ovr", average="macro")
    assert found == pytest.approx(expected, abs=1e-12)
    theirs = multiclass_auroc(
        torch.from_numpy(share), torch.from_numpy(columns["target"]), num_classes=classes, average="macro"
    )
    assert found == pytest.approx(float(theirs), abs=1e-6)
    one_hot = np.eye(classes)[columns["target"]]
    assert value("average_precision", columns) == pytest.approx(
        sk.average_precision_score(one_hot, columns["score"], average="macro")
    )


def test_several_labels_agree_with_scikit_learn():
    columns = several_labels(5)
    target, score = columns["target"], columns["score"]
    assert value("auroc", columns) == pytest.approx(sk.roc_auc_score(target, score, average="macro"))
    assert value("average_precision", columns) == pytest.approx(sk.average_precision_score(target, score))
    right = [sk.accuracy_score(target[:, label], score[:, label] >= 0.5) for label in range(5)]
    assert value("label_accuracy", columns) == pytest.approx(np.mean(right))


def test_a_resample_without_a_class_is_undefined_and_the_others_are_not():
    columns = single_label(3)
    weights = np.ones((2, ITEMS), np.int64)
    weights[1, columns["target"] == 2] = 0
    for name in ("balanced_accuracy", "macro_f1", "auroc", "average_precision"):
        found = METRICS[name](columns, weights)
        assert np.isfinite(found[0]), name
        assert np.isnan(found[1]), name
    assert np.isfinite(METRICS["accuracy"](columns, weights)).all()


def test_a_class_that_has_no_items_at_all_is_left_out_of_the_mean():
    columns = single_label(3)
    wider = {"target": columns["target"], "score": np.column_stack([columns["score"], np.full(ITEMS, -9.0)])}
    for name in SINGLE:
        assert value(name, wider) == pytest.approx(value(name, columns)), name


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_resample_is_undefined(name):
    columns = next(columns for known, columns in CASES if known == name)
    assert np.isnan(METRICS[name](columns, np.zeros((1, ITEMS))))


def test_constant_scores_are_chance():
    columns = {"target": np.arange(40) % 4, "score": np.ones((40, 4))}
    assert value("auroc", columns) == 0.5
    assert value("average_precision", columns) == pytest.approx(0.25)
    assert value("balanced_accuracy", columns) == pytest.approx(0.25)


@pytest.mark.parametrize("side", [0, 1])
def test_recall_and_median_rank_are_those_of_the_sides_queries(side):
    columns = ranked()
    name = ("i2t", "t2i")[side]
    ranks = [int(rank) for rank, its in zip(columns["rank"], columns["side"], strict=True) if its == side]
    for k in (1, 5, 10):
        assert value(f"{name}_recall_at_{k}", columns) == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))
    assert value(f"{name}_median_rank", columns) == np.median(ranks)


def test_questions_are_counted_by_kind():
    columns = {"correct": np.array([1, 0, 1, 1, 0]), "closed": np.array([1, 1, 1, 0, 0])}
    assert value("vqa_overall", columns) == pytest.approx(3 / 5)
    assert value("vqa_closed", columns) == pytest.approx(2 / 3)
    assert value("vqa_open", columns) == pytest.approx(1 / 2)


def test_seeds_are_averaged_and_can_be_looked_at_alone():
    columns = single_label(3)
    columns |= {f"score.{seed}": single_label(3, seed=seed)["score"] for seed in (1, 2)}
    views = seed_views(columns)
    assert [set(view) for view in views] == [{"target", "score"}] * 3
    alone = [sk.accuracy_score(columns["target"], view["score"].argmax(axis=1)) for view in views]
    assert len(set(alone)) > 1
    assert value("accuracy", columns) == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("extra", [{"score.2"}, {"score.1", "other.2"}, {"other.1"}])
def test_columns_of_seeds_that_do_not_fit_are_refused(extra):
    columns = single_label(3)
    with pytest.raises(EvaluationError, match="columns of training seeds"):
        seed_views({**columns, **dict.fromkeys(extra, columns["score"])})


def test_scores_and_weights_that_mean_nothing_are_refused():
    columns = single_label(3)
    with pytest.raises(EvaluationError, match="weights are of 59 items"):
        METRICS["accuracy"](columns, np.ones((1, ITEMS - 1)))
    with pytest.raises(EvaluationError, match="two axes"):
        METRICS["accuracy"](columns, np.ones(ITEMS))
    columns["score"][5, 1] = np.nan
    with pytest.raises(EvaluationError, match="1 of 60 items have scores that are not finite"):
        METRICS["auroc"](columns, ones(columns))


def test_accuracy_by_group_is_scikit_learns_within_each_group():
    columns = in_groups()
    weights = np.random.default_rng(1).integers(0, 3, size=(RESAMPLES, ITEMS))
    said = columns["score"].argmax(axis=1)
    names = ["accuracy@ct", "accuracy@mri", "accuracy@oct"]
    found = {name: metric(columns, weights) for name, metric in metrics_named(names).items()}
    for name in names:
        rows = columns["group"] == name.partition("@")[2]
        for row, weight in enumerate(weights):
            expected = sk.accuracy_score(columns["target"][rows], said[rows], sample_weight=weight[rows])
            assert found[name][row] == pytest.approx(expected)
    mean = METRICS["group_accuracy"](columns, weights)
    np.testing.assert_allclose(mean, np.mean([found[name] for name in names], axis=0))
    weights[0, columns["group"] == "mri"] = 0
    assert np.isnan(METRICS["group_accuracy"](columns, weights)[0])
    with pytest.raises(KeyError):
        metrics_named(["accuracies"])
