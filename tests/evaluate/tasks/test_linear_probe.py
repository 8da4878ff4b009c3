"""The linear probe against scikit-learn used plainly, and its small training sets."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from evaluate.metrics.registry import METRICS
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import STRENGTHS, Probe, linear_probe, path_losses
from store.errors import EvaluationError

CLASSES = ["benign", "malignant", "normal"]
FEW = tuple(STRENGTHS[::6])
WIDTH = 6


def split(name, items, *, classes=3, signal=1.0, seed=0, patients=None):
    centres = np.random.default_rng(99).normal(size=(3, WIDTH))
    rng = np.random.default_rng([seed, len(name)])
    target = np.concatenate([np.arange(classes), rng.integers(classes, size=items - classes)])
    features = (rng.normal(size=(items, WIDTH)) + signal * centres[target]).astype(np.float32)
    groups = None if patients is None else [f"{name} patient {row % patients}" for row in range(items)]
    return LabelledFeatures(
        ids=[f"{name} {row}" for row in range(items)], features=features, target=target, clusters=groups
    )


def splits(**options):
    return split("train", 80, **options), split("val", 40, **options), split("test", 60, **options)


def unit(features):
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_it_is_the_regression_whose_c_has_the_smallest_loss_on_validation():
    train, val, test = splits()
    found = linear_probe(train, test, classes=CLASSES, val=val)
    losses = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(unit(train.features), train.target)
        losses.append(log_loss(val.target, model.predict_proba(unit(val.features))))
    chosen = STRENGTHS[int(np.argmin(losses))]
    assert 1e-6 < chosen < 1e5
    assert found.details["runs"][0]["C"] == chosen
    model = LogisticRegression(C=chosen, max_iter=1000).fit(unit(train.features), train.target)
    expected = model.predict_proba(unit(test.features))
    np.testing.assert_allclose(found.predictions.columns["score"], expected, atol=1e-12)
    assert found.metrics["accuracy"] == accuracy_score(test.target, expected.argmax(axis=1))
    assert found.metrics["auroc"] == pytest.approx(roc_auc_score(test.target, expected, multi_class="ovr"))
    assert found.seeds == {}
    assert found.task == "linear_probe"


def test_a_path_of_models_loses_as_much_as_models_of_their_own():
    """Up to a loss much above the best: beyond, the plain model has not converged, and the path has gone on."""
    train, val, _ = splits()
    train, val = (
        LabelledFeatures(ids=part.ids, features=unit(part.features), target=part.target) for part in (train, val)
    )
    expected = [
        log_loss(
            val.target,
            LogisticRegression(C=strength, max_iter=1000).fit(train.features, train.target).predict_proba(val.features),
        )
        for strength in FEW[:6]
    ]
    np.testing.assert_allclose(path_losses(train, val, classes=3, strengths=FEW)[:6], expected, rtol=2e-3)


def test_without_validation_c_follows_the_width_and_the_classes():
    train, _, test = splits()
    run = linear_probe(train, test, classes=CLASSES).details["runs"][0]
    assert run["C"] == pytest.approx(WIDTH * 3 / 100)
    assert run["C_chosen_by"] == "formula"


@pytest.mark.parametrize("patients", [None, 20])
def test_without_validation_folds_of_the_training_items_can_choose(patients):
    train, _, test = splits(patients=patients)
    run = linear_probe(train, test, classes=CLASSES, probe=Probe(without_validation="folds", strengths=FEW)).details[
        "runs"
    ][0]
    assert run["C"] in FEW
    assert run["C_chosen_by"] == "5 folds of the training items"


def test_one_item_of_a_class_leaves_no_folds():
    train, _, test = splits()
    probe = Probe(shots=1, seeds=(0,), without_validation="folds")
    assert linear_probe(train, test, classes=CLASSES, probe=probe).details["runs"][0]["C_chosen_by"] == "formula"


def test_validation_items_are_never_trained_on():
    train, val, test = splits()
    probe = Probe(shots=2, seeds=(0, 1), strengths=(1.0,))
    other = split("val", 40, seed=7)
    first = linear_probe(train, test, classes=CLASSES, val=val, probe=probe)
    second = linear_probe(train, test, classes=CLASSES, val=other, probe=probe)
    np.testing.assert_array_equal(first.predictions.columns["score"], second.predictions.columns["score"])
    assert [run["num_train"] for run in first.details["runs"]] == [6, 6]


def test_seeds_draw_other_items_and_are_told_apart_from_the_test_set():
    train, val, test = splits()
    probe = Probe(shots=2, strengths=FEW)
    found = linear_probe(train, test, classes=CLASSES, val=val, probe=probe)
    assert found.task == "linear_probe_2shot"
    assert len(found.seeds["auroc"]) == 5
    assert len({run["train_digest"] for run in found.details["runs"]}) == 5
    assert found.metrics["auroc"] == pytest.approx(np.mean(found.seeds["auroc"]))
    score = found.predictions.columns["score.3"]
    assert found.seeds["auroc"][3] == pytest.approx(roc_auc_score(test.target, score, multi_class="ovr"))
    again = linear_probe(train, test, classes=CLASSES, val=val, probe=probe)
    assert again.metrics == found.metrics
    np.testing.assert_array_equal(METRICS["auroc"](found.predictions.columns, np.ones((1, 60))), found.metrics["auroc"])


def test_a_fraction_is_named_in_per_cent():
    train, val, test = splits()
    found = linear_probe(train, test, classes=CLASSES, val=val, probe=Probe(fraction=0.1, seeds=(3,), strengths=FEW))
    assert found.task == "linear_probe_10pct"
    assert found.details["training_seeds"] == [3]


@pytest.mark.parametrize("positive", ["benign", "malignant"])
def test_of_two_classes_the_positive_one_is_named(positive):
    train, val, test = splits(classes=2)
    found = linear_probe(
        train, test, classes=CLASSES[:2], val=val, probe=Probe(positive=positive, shots=8, seeds=(0, 1), strengths=FEW)
    )
    number = CLASSES.index(positive)
    for suffix, value in zip(("", ".1"), found.seeds["auroc"], strict=True):
        probability = found.predictions.columns[f"score{suffix}"][:, number]
        assert value == pytest.approx(roc_auc_score(test.target == number, probability))


def test_a_permutation_of_training_labels_gives_chance():
    train, _, _ = splits()
    test = split("test", 3000)
    values = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(train.target))
        shuffled = LabelledFeatures(ids=train.ids, features=train.features, target=train.target[order])
        values.append(linear_probe(shuffled, test, classes=CLASSES).metrics["auroc"])
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)
    assert linear_probe(train, test, classes=CLASSES).metrics["auroc"] > 0.75


def test_a_class_without_training_items_has_no_probability():
    train, val, test = splits()
    rows = np.flatnonzero(train.target != 1)
    found = linear_probe(train.take(rows), test, classes=CLASSES, val=val)
    assert (found.predictions.columns["score"][:, 1] == 0).all()
    assert found.details["classes_without_items"]["train"] == ["malignant"]


def test_a_patient_in_two_splits_is_refused_unless_told():
    train, val, test = splits(patients=20)
    leaking = LabelledFeatures(
        ids=test.ids, features=test.features, target=test.target, clusters=["train patient 3", *test.clusters[1:]]
    )
    with pytest.raises(EvaluationError, match="1 groups are in both test and train"):
        linear_probe(train, leaking, classes=CLASSES, val=val)
    told = linear_probe(train, leaking, classes=CLASSES, val=val, probe=Probe(allow_shared_groups=True, strengths=FEW))
    assert told.details["groups_shared"] == {"test and train": 1}
    clean = linear_probe(train, test, classes=CLASSES, val=val, probe=Probe(strengths=FEW))
    assert clean.details["groups_shared"] == {}
    assert clean.predictions.clusters == test.clusters


def spoilt(part, **changes):
    return LabelledFeatures(**{"ids": part.ids, "features": part.features, "target": part.target, **changes})


def bad_cases():
    train, val, test = splits()
    nan = train.features.copy()
    nan[4] = np.nan
    empty = np.array([], int)
    return [
        ((spoilt(train, features=nan), test, val), "train features: 1 of 80 rows .* not finite, the first is row 4"),
        ((train, spoilt(test, features=test.features * 0), val), "test features: 60 of 60 rows are zero"),
        ((train, test.take(empty), val), "the test split is empty"),
        ((train.take(empty), test, val), "the train split is empty"),
        ((train, test, val.take(empty)), "the val split is empty"),
        ((train.take(np.flatnonzero(train.target == 1)), test, val), "items of the train split are of one class"),
        ((train, spoilt(test, target=test.target + 1), val), "the test split has labels outside the 3 classes"),
    ]


@pytest.mark.parametrize(("parts", "message"), bad_cases())
def test_bad_input_is_refused(parts, message):
    train, test, val = parts
    with pytest.raises(EvaluationError, match=message):
        linear_probe(train, test, classes=CLASSES, val=val)


def test_fraction_and_shots_together_are_refused():
    train, _, test = splits()
    with pytest.raises(EvaluationError, match="not on both"):
        linear_probe(train, test, classes=CLASSES, probe=Probe(fraction=0.1, shots=2))


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(EvaluationError, match="differ in length"):
        LabelledFeatures(ids=["a"], features=np.ones((2, 3)), target=np.zeros(2, int))
