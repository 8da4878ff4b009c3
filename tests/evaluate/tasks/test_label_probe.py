"""The linear probe of several labels against scikit-learn used plainly, one label at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from evaluate.tasks.fitting.regression import STRENGTHS
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe, linear_probe_labels
from store.errors import EvaluationError

LABELS = ["edema", "effusion", "mass"]
FEW = tuple(STRENGTHS[12:40:4])
WIDTH = 6


def split(name, items, *, seed=0, patients=None):
    directions = np.random.default_rng(99).normal(size=(3, WIDTH))
    rng = np.random.default_rng([seed, *name.encode()])
    target = (rng.uniform(size=(items, 3)) < (0.5, 0.3, 0.2)).astype(np.uint8)
    features = (rng.normal(size=(items, WIDTH)) + target @ directions).astype(np.float32)
    groups = None if patients is None else [f"{name} patient {row % patients}" for row in range(items)]
    return LabelledFeatures(
        ids=[f"{name} {row}" for row in range(items)], features=features, target=target, clusters=groups
    )


def splits():
    return split("train", 120), split("val", 60), split("test", 90)


def unit(features):
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def fitted(train, strength):
    return [
        LogisticRegression(C=strength, max_iter=1000).fit(unit(train.features), train.target[:, label])
        for label in range(3)
    ]


def test_one_c_for_all_labels_has_the_smallest_mean_loss_on_validation():
    train, val, test = splits()
    found = linear_probe_labels(train, test, labels=LABELS, val=val, probe=Probe(strengths=FEW))
    losses = [
        np.mean(
            [
                log_loss(val.target[:, label], model.predict_proba(unit(val.features)))
                for label, model in enumerate(fitted(train, strength))
            ]
        )
        for strength in FEW
    ]
    (run,) = found.details["runs"]
    assert run["C"] == FEW[int(np.argmin(losses))]
    assert FEW[0] < run["C"] < FEW[-1]
    assert run["C_chosen_by"] == "validation"
    expected = np.stack([m.predict_proba(unit(test.features))[:, 1] for m in fitted(train, run["C"])], axis=1)
    np.testing.assert_allclose(found.predictions.columns["score"], expected, atol=1e-12)
    assert found.task == "linear_probe"
    assert found.metrics["auroc"] == pytest.approx(roc_auc_score(test.target, expected, average="macro"))
    assert found.metrics["average_precision"] == pytest.approx(average_precision_score(test.target, expected))


def test_without_validation_c_follows_the_width():
    train, _, test = splits()
    (run,) = linear_probe_labels(train, test, labels=LABELS).details["runs"]
    assert (run["C"], run["C_chosen_by"]) == (pytest.approx(WIDTH * 2 / 100), "formula")


def test_a_fraction_is_one_of_all_items_and_looks_at_no_more_validation_items():
    train, val, test = splits()
    found = linear_probe_labels(
        train, test, labels=LABELS, val=val, probe=Probe(fraction=0.2, strengths=FEW, seeds=(0, 1))
    )
    assert [run["num_train"] for run in found.details["runs"]] == [24, 24]
    assert [run["num_val"] for run in found.details["runs"]] == [24, 24]
    assert len({run["train_digest"] for run in found.details["runs"]}) == 2
    assert found.task == "linear_probe_20pct"
    assert found.details["amount"] == {"kind": "fraction", "value": 0.2, "num_train": 24}
    assert len(found.seeds["auroc"]) == 2


def test_a_fraction_has_whole_patients():
    train = split("train", 120, patients=12)
    found = linear_probe_labels(train, split("test", 90), labels=LABELS, probe=Probe(fraction=0.25, seeds=(0,)))
    assert found.details["runs"][0]["num_train"] == 30


def test_a_label_that_training_never_varies_has_its_training_share():
    train, val, test = splits()
    never = train.target.copy()
    never[:, 1] = 0
    found = linear_probe_labels(replace(train, target=never), test, labels=LABELS, val=val, probe=Probe(strengths=FEW))
    assert (found.predictions.columns["score"][:, 1] == 0).all()
    assert found.details["constant_labels"]["train"] == ["effusion"]


def test_what_tells_nothing_is_refused():
    train, val, test = splits()
    with pytest.raises(EvaluationError, match="shots of several labels per image are not defined"):
        linear_probe_labels(train, test, labels=LABELS, probe=Probe(shots=2))
    same = replace(test, target=np.ones_like(test.target))
    with pytest.raises(EvaluationError, match="the test split: every label is the same for all 90 items"):
        linear_probe_labels(train, same, labels=LABELS, val=val)
    with pytest.raises(EvaluationError, match="the train split: targets must be 0 or 1, 2 to an item"):
        linear_probe_labels(train, test, labels=LABELS[:2], val=val)
    with pytest.raises(EvaluationError, match="the val split is empty"):
        linear_probe_labels(train, test, labels=LABELS, val=val.take(np.array([], int)))
    with pytest.raises(EvaluationError, match=r"no label has both kinds of items among the 1 that seed 0 draws"):
        linear_probe_labels(train, test, labels=LABELS, probe=Probe(fraction=0.001))
