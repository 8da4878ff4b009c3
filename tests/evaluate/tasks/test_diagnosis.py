"""Slides as bags of patches where one patch says what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from evaluate.tasks.diagnosis import diagnose_by_abmil, diagnose_by_mean
from evaluate.tasks.fitting import abmil
from evaluate.tasks.fitting.abmil import Abmil, GatedAttention, outputs_of, padded
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe
from store.errors import EvaluationError

CLASSES = ["normal", "tumour"]
QUICK = Abmil(hidden=16, attention=8, lr=1e-2, batch=16, epochs=16, patience=16)


def slides(name, count, *, seed=0, tumour=4.0):
    """A slide of tumour has one patch, of up to 11, that is far out, to either side, so that means say little."""
    rng = np.random.default_rng([seed, *name.encode()])
    target = np.arange(count) % 2
    bags = [rng.normal(size=(int(size), 6)) for size in rng.integers(1, 12, size=count)]
    for bag, label in zip(bags, target, strict=True):
        if label:
            bag[rng.integers(len(bag)), :2] = tumour * rng.choice([-1, 1]) * np.ones(2)
    return LabelledFeatures(
        ids=[f"{name} {row}" for row in range(count)],
        features=bags,
        target=target,
        clusters=[f"{name} patient {row // 2}" for row in range(count)],
    )


def changed(split, **changes):
    names = ("ids", "features", "target", "clusters")
    return LabelledFeatures(**{name: getattr(split, name) for name in names} | changes)


def test_abmil_finds_the_patch_that_tells_and_the_mean_does_not():
    train, val, test = slides("train", 120), slides("val", 40), slides("test", 60)
    found = diagnose_by_abmil(train, test, classes=CLASSES, val=val, settings=replace(QUICK, seeds=(0, 1)))
    assert found.metrics["auroc"] > 0.85
    assert found.metrics["auroc"] > diagnose_by_mean(train, test, classes=CLASSES, val=val).metrics["auroc"] + 0.2
    for suffix, value in zip(("", ".1"), found.seeds["auroc"], strict=True):
        score = found.predictions.columns[f"score{suffix}"]
        assert value == pytest.approx(roc_auc_score(test.target, score[:, 1]))
    said = score.argmax(axis=1)
    assert found.seeds["balanced_accuracy"][1] == pytest.approx(balanced_accuracy_score(test.target, said))
    assert found.predictions.clusters == test.clusters
    assert found.task == "diagnosis_abmil"


def test_a_permutation_of_training_labels_gives_chance():
    train, test = slides("train", 60), slides("test", 400)
    settings = Abmil(hidden=8, attention=8, epochs=4)
    values = []
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(60)
        shuffled = changed(train, target=train.target[order])
        values.append(diagnose_by_abmil(shuffled, test, classes=CLASSES, settings=replace(settings, seeds=(seed,))))
    assert np.mean([value.metrics["auroc"] for value in values]) == pytest.approx(0.5, abs=0.08)


def test_the_mean_is_a_linear_probe_of_mean_features():
    train, test = slides("train", 40, tumour=30.0), slides("test", 40, tumour=30.0)
    found = diagnose_by_mean(train, test, classes=CLASSES, probe=Probe(positive="normal"))
    means = [np.stack([np.mean(bag, axis=0) for bag in split.features]) for split in (train, test)]
    unit = [mean / np.linalg.norm(mean, axis=1, keepdims=True) for mean in means]
    model = LogisticRegression(C=6 * 2 / 100, max_iter=1000).fit(unit[0], train.target)
    np.testing.assert_allclose(found.predictions.columns["score"], model.predict_proba(unit[1]), atol=1e-9)
    assert found.task == "diagnosis_mean"
    assert (found.predictions.columns["positive"] == (test.target == 0)).all()
    assert found.details["patches_of_a_test_slide"]["smallest"] == min(len(bag) for bag in test.features)


def test_the_same_seeds_give_the_same_scores():
    train, test = slides("train", 20), slides("test", 20)
    settings = Abmil(hidden=8, attention=8, epochs=2, dropout=0.3, max_patches=5, seeds=(3,))
    first, second = (
        diagnose_by_abmil(train, test, classes=CLASSES, settings=settings).predictions.columns["score"]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def network(bags, outputs=3):
    torch.manual_seed(0)
    return GatedAttention(bags, outputs, Abmil(hidden=5, attention=4)).eval()


def test_attention_is_its_formula_and_padding_changes_nothing():
    rng = np.random.default_rng(1)
    bags = [rng.normal(size=(size, 4)).astype(np.float32) for size in (1, 7, 3)]
    model = network(bags)
    together, attention = model(*padded(bags, "cpu"))
    everything = np.concatenate(bags)
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    for place, bag in enumerate(bags):
        x = (bag - everything.mean(axis=0)) / everything.std(axis=0)
        hidden = np.maximum(0, x @ weights["project.0.weight"].T + weights["project.0.bias"])
        value = np.tanh(hidden @ weights["value.weight"].T + weights["value.bias"])
        gate = 1 / (1 + np.exp(-(hidden @ weights["gate.weight"].T + weights["gate.bias"])))
        score = (value * gate) @ weights["weigh.weight"].T[:, 0]
        share = np.exp(score) / np.exp(score).sum()
        expected = (share @ hidden) @ weights["output.1.weight"].T + weights["output.1.bias"]
        np.testing.assert_allclose(together[place].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(attention[place, : len(bag)].detach().numpy(), share, rtol=1e-4)
        assert (attention[place, len(bag) :] == 0).all()
    np.testing.assert_allclose(outputs_of(model, bags, device="cpu"), together.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("patches", [1, 8, 20])
def test_bags_are_scored_a_few_at_a_time(patches, monkeypatch):
    rng = np.random.default_rng(4)
    bags = [rng.normal(size=(size, 4)) for size in (3, 9, 1, 2, 2, 30, 1)]
    whole = outputs_of(network(bags), bags, device="cpu")
    monkeypatch.setattr(abmil, "PATCHES", patches)
    np.testing.assert_allclose(outputs_of(network(bags), bags, device="cpu"), whole, rtol=1e-4, atol=1e-6)


def test_a_feature_that_never_varies_does_no_harm():
    bags = [np.column_stack([np.full(3, 7.0), np.arange(3.0) + number]) for number in range(4)]
    assert np.isfinite(outputs_of(network(bags), bags, device="cpu")).all()


def test_the_order_of_patches_does_not_matter():
    bag = np.random.default_rng(2).normal(size=(9, 4))
    model = network([bag])
    found = outputs_of(model, [bag, bag[::-1].copy()], device="cpu")
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


def bad_cases():
    train, test = slides("train", 20), slides("test", 20)
    nan = [*test.features[:19], np.full((2, 6), np.nan)]
    return [
        (train, changed(test, features=nan), "test: bag 19 has values that are not finite"),
        (train, changed(test, features=[*test.features[:19], np.ones((0, 6))]), "test: bag 19 has no patch"),
        (
            train,
            changed(test, features=[bag[:, :3] for bag in test.features]),
            "differ in width: {'train': 6, 'test': 3}",
        ),
        (changed(train, target=np.zeros(20, int)), test, "items of the train split are of one class, 'normal'"),
        (train, changed(test, target=test.target + 1), "the test split has labels outside the 2 classes"),
        (train, changed(test, clusters=train.clusters), "10 groups are in both test and train"),
    ]


@pytest.mark.parametrize(("train", "test", "message"), bad_cases())
@pytest.mark.parametrize("diagnose", [diagnose_by_abmil, diagnose_by_mean])
def test_bad_input_is_refused(diagnose, train, test, message):
    with pytest.raises(EvaluationError, match=message):
        diagnose(train, test, classes=CLASSES)


def test_an_empty_split_is_refused():
    train = slides("train", 20)
    empty = LabelledFeatures(ids=[], features=[], target=np.array([], int))
    with pytest.raises(EvaluationError, match="the test split is empty"):
        diagnose_by_abmil(train, empty, classes=CLASSES)


def test_slides_of_one_patch_each_can_be_diagnosed():
    train, test = (
        changed(split, features=[bag[:1] + 3 * label for bag, label in zip(split.features, split.target, strict=True)])
        for split in (slides("train", 40, tumour=0.0), slides("test", 20, tumour=0.0))
    )
    assert diagnose_by_abmil(train, test, classes=CLASSES, settings=replace(QUICK, seeds=(0,))).metrics["auroc"] > 0.9
