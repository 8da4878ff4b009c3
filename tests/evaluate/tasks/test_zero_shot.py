"""Zero-shot classification as a task, against scikit-learn and torch."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from evaluate.metrics.registry import METRICS
from evaluate.tasks import zero_shot as zero_shot_task
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.zero_shot import prompt_ensemble, zero_shot_in_groups, zero_shot_labels
from store.errors import CorpusError, EvaluationError

CLASSES = ["benign", "malignant", "normal", "unclear"]
SCALE = 14.3


def drawn(items=200, classes=4, *, width=16, signal=1.0, seed=0):
    """Embeddings of any length that lie near those of their class."""
    rng = np.random.default_rng(seed)
    class_CE = rng.normal(size=(classes, width)).astype(np.float32)
    target = rng.integers(classes, size=items)
    image = rng.normal(size=(items, width)) * 2 + signal * class_CE[target]
    return {
        "image_NE": image.astype(np.float32),
        "target_N": target,
        "class_CE": class_CE,
        "classes": CLASSES[:classes],
        "ids": [f"image {number}" for number in range(items)],
        "logit_scale": SCALE,
    }


def zero_shot(image_NE, target_N, *, ids, clusters=None, **options):
    test = LabelledFeatures(ids=ids, features=image_NE, target=target_N, clusters=clusters)
    return zero_shot_task.zero_shot(test, **options)


def torch_probabilities(case, scale):
    image = torch.nn.functional.normalize(torch.from_numpy(case["image_NE"]).double(), dim=1)
    text = torch.nn.functional.normalize(torch.from_numpy(case["class_CE"]).double(), dim=1)
    return torch.softmax(scale * image @ text.T, dim=1).numpy()


@pytest.mark.parametrize(("official", "scale"), [(False, SCALE), (True, 1.0)])
def test_several_classes_agree_with_torch_and_scikit_learn(official, scale):
    case = drawn()
    found = zero_shot(**case, official=official)
    expected = torch_probabilities(case, scale)
    np.testing.assert_allclose(found.predictions.columns["score"], expected, atol=1e-6)
    target, said = case["target_N"], expected.argmax(axis=1)
    assert found.metrics["accuracy"] == pytest.approx(sk.accuracy_score(target, said))
    assert found.metrics["auroc"] == pytest.approx(sk.roc_auc_score(target, expected, multi_class="ovr"), abs=1e-6)
    assert found.details["confusion"] == sk.confusion_matrix(target, said).tolist()
    assert found.details["logit_scale"] == scale
    assert found.details["official"] is official
    assert found.seeds == {}


def test_the_scale_changes_the_auroc_of_several_classes():
    assert zero_shot(**drawn()).metrics["auroc"] != zero_shot(**drawn(), official=True).metrics["auroc"]


@pytest.mark.parametrize("positive", ["benign", "malignant"])
def test_of_two_classes_the_positive_one_is_named(positive):
    case = drawn(classes=2)
    found = zero_shot(**case, positive=positive)
    is_positive = case["target_N"] == CLASSES.index(positive)
    probability = torch_probabilities(case, SCALE)[:, CLASSES.index(positive)]
    assert found.metrics["average_precision"] == pytest.approx(sk.average_precision_score(is_positive, probability))
    assert found.metrics["auroc"] == pytest.approx(sk.roc_auc_score(is_positive, probability))
    assert found.details["positive"] == positive


def test_a_large_scale_does_not_make_ties():
    case = drawn(classes=2, signal=3.0)
    small = zero_shot(**case | {"logit_scale": 1.0}).metrics["auroc"]
    assert zero_shot(**case | {"logit_scale": 1e5}).metrics["auroc"] == pytest.approx(small, abs=1e-12)


def test_labels_that_say_nothing_give_chance():
    found = zero_shot(**drawn(items=4000, signal=0.0))
    assert found.metrics["auroc"] == pytest.approx(0.5, abs=0.03)
    assert found.metrics["balanced_accuracy"] == pytest.approx(0.25, abs=0.03)


def test_classes_come_from_the_dataset_and_not_from_the_labels(caplog):
    case = drawn()
    keep = case["target_N"] != 3
    case |= {name: case[name][keep] for name in ("image_NE", "target_N")} | {"ids": case["ids"][: keep.sum()]}
    with caplog.at_level(logging.WARNING):
        found = zero_shot(**case)
    assert found.predictions.columns["score"].shape[1] == 4
    assert found.details["classes_without_items"] == ["unclear"]
    assert "no item of the test split is of unclear" in caplog.text
    assert found.details["class_items"][3] == 0
    assert np.sum(found.details["confusion"]) == keep.sum()


def test_images_are_read_in_pieces(monkeypatch):
    whole = zero_shot(**drawn())
    monkeypatch.setattr(zero_shot_task, "PIECE_ROWS", 7)
    pieces = zero_shot(**drawn())
    np.testing.assert_allclose(
        pieces.predictions.columns["score"], whole.predictions.columns["score"], rtol=1e-5, atol=1e-7
    )


def test_the_metrics_can_be_computed_again_from_the_predictions():
    found = zero_shot(**drawn(), clusters=[str(number // 2) for number in range(200)])
    for name, value in found.metrics.items():
        assert METRICS[name](found.predictions.columns, np.ones((1, 200)))[0] == value
    assert found.predictions.strata == "target"
    assert found.predictions.clusters[:3] == ["0", "0", "1"]


def test_labels_are_told_by_positive_against_negative_prompts():
    rng = np.random.default_rng(3)
    image, yes, no = (rng.normal(size=(size, 8)).astype(np.float32) for size in (60, 3, 3))
    target = rng.integers(2, size=(60, 3))
    names = [str(number) for number in range(60)]
    arguments = {"positive_CE": yes, "negative_CE": no, "labels": CLASSES[:3], "logit_scale": SCALE}

    def of_labels(target):
        return zero_shot_labels(LabelledFeatures(ids=names, features=image, target=target), **arguments)

    found = of_labels(target)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, yes, no)]
    for label in range(3):
        pair = SCALE * np.stack([unit[0] @ unit[1][label], unit[0] @ unit[2][label]], axis=1)
        expected = torch.softmax(torch.from_numpy(pair), dim=1)[:, 0].numpy()
        np.testing.assert_allclose(found.predictions.columns["score"][:, label], expected, atol=1e-5)
    score = found.predictions.columns["score"]
    assert found.metrics["auroc"] == pytest.approx(sk.roc_auc_score(target, score, average="macro"))
    assert found.metrics["average_precision"] == pytest.approx(sk.average_precision_score(target, score))
    target[:, 1] = 1
    assert of_labels(target).details["classes_left_out"] == ["malignant"]
    with pytest.raises(EvaluationError, match="nothing to tell apart"):
        of_labels(np.ones_like(target))
    with pytest.raises(EvaluationError, match="0 or 1"):
        of_labels(target * 2)


def test_a_class_is_the_mean_of_its_own_prompts_whatever_their_number():
    def encode(prompts):
        return np.stack([np.random.default_rng(list(text.encode())).normal(size=6) for text in prompts])

    found = prompt_ensemble(encode, [["a scan of {x}", "b"], ["c"]])
    for row, own in zip(found, (["a scan of {x}", "b"], ["c"]), strict=True):
        unit = [encode([prompt])[0] / np.linalg.norm(encode([prompt])[0]) for prompt in own]
        np.testing.assert_allclose(row, np.mean(unit, axis=0) / np.linalg.norm(np.mean(unit, axis=0)), rtol=1e-5)
    with pytest.raises(CorpusError, match="classes without a prompt: 1"):
        prompt_ensemble(encode, [["a"], []])
    with pytest.raises(CorpusError, match="zero or not finite"):
        prompt_ensemble(lambda prompts: np.zeros((len(prompts), 3)), [["a"]])


def spoilt(name, value):
    case = drawn()
    if name == "image_NE":
        case[name][3, 1] = value
    elif name == "zero":
        case["image_NE"][3:5] = 0
    else:
        case[name] = value
    return case


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (spoilt("image_NE", np.nan), "image embeddings from row 0: 1 of 200 rows have values that are not finite"),
        (spoilt("image_NE", np.inf), "not finite, the first is row 3"),
        (spoilt("zero", None), "2 of 200 rows are zero, the first is row 3"),
        (spoilt("target_N", np.full(200, 7)), r"labels outside the 4 classes that the dataset lists: {7: 200}"),
        (spoilt("target_N", np.full(200, 1)), "all 200 items of the test split are of one class, 'malignant'"),
        (spoilt("target_N", np.zeros(200)), "class numbers, not float64"),
        (spoilt("target_N", np.zeros(5, int)), "differ in length: .*'features': 200, 'target': 5"),
        (spoilt("classes", CLASSES[:3]), "for 3 classes"),
        (spoilt("class_CE", np.ones((4, 5))), r"images are embedded as \(16,\), classes as \(5,\)"),
        (spoilt("logit_scale", np.nan), "logit scale must be positive"),
        (spoilt("ids", ["twice"] * 200), "199 of 200 test items have the name of another one"),
        (spoilt("primary", "f2"), "zero_shot has no metric 'f2'"),
    ],
)
def test_bad_input_is_refused(case, message):
    with pytest.raises(EvaluationError, match=message):
        zero_shot(**case)


def test_an_empty_test_split_is_refused():
    case = drawn()
    case |= {name: case[name][:0] for name in ("image_NE", "target_N", "ids")}
    with pytest.raises(EvaluationError, match="the test split is empty"):
        zero_shot(**case)


def test_a_positive_class_that_does_not_exist_is_refused():
    with pytest.raises(EvaluationError, match="'bad' is none of benign, malignant"):
        zero_shot(**drawn(classes=2), positive="bad")


GROUPS = {"ct": [0, 1, 2], "mri": [2, 3]}
"""The class "normal" is in both; its prompts, and so its embedding, differ."""


def drawn_groups(items=120):
    rng = np.random.default_rng(4)
    group_N = [list(GROUPS)[number] for number in rng.integers(2, size=items)]
    target = np.array([rng.choice(GROUPS[group]) for group in group_N])
    class_KE = {group: rng.normal(size=(len(own), 6)).astype(np.float32) for group, own in GROUPS.items()}
    image = rng.normal(size=(items, 6)).astype(np.float32)
    test = LabelledFeatures(ids=[str(number) for number in range(items)], features=image, target=target)
    options = {"groups": GROUPS, "class_KE": class_KE, "classes": CLASSES, "logit_scale": SCALE}
    return test, {"group_N": group_N, **options}


def test_an_image_is_classified_among_the_classes_of_its_group_alone():
    test, options = drawn_groups()
    found = zero_shot_in_groups(test, **options)
    right = {group: [] for group in GROUPS}
    for image, target, group in zip(test.features, test.target, options["group_N"], strict=True):
        unit = [row / math.sqrt(sum(row * row)) for row in options["class_KE"][group]]
        cosines = [float(sum(a * b for a, b in zip(image, row, strict=True))) for row in unit]
        right[group].append(GROUPS[group][cosines.index(max(cosines))] == target)
    accuracy = {group: sum(answers) / len(answers) for group, answers in right.items()}
    assert all(0 < value < 1 for value in accuracy.values())
    for group, value in accuracy.items():
        assert found.metrics[f"accuracy@{group}"] == pytest.approx(value)
        assert found.details["groups"][group] == len(right[group])
    assert found.metrics["group_accuracy"] == pytest.approx((accuracy["ct"] + accuracy["mri"]) / 2)
    score = found.predictions.columns["score"]
    np.testing.assert_allclose(score.sum(axis=1), 1)
    assert (score[np.array(options["group_N"]) == "mri"][:, :2] == 0).all()


def test_a_group_without_an_image_is_refused():
    test, options = drawn_groups()
    options["groups"] = {**GROUPS, "oct": [0, 1]}
    with pytest.raises(EvaluationError, match="no image belongs to the groups oct"):
        zero_shot_in_groups(test, **options)


def test_embeddings_that_are_not_finite_are_refused_in_groups_too():
    test, options = drawn_groups()
    test.features[2, 1], test.features[5] = np.nan, np.inf
    with pytest.raises(EvaluationError, match="rows have values that are not finite"):
        zero_shot_in_groups(test, **options)


def test_single_templates_are_recorded_with_how_far_they_differ():
    case = drawn(signal=0.3)
    rng = np.random.default_rng(9)
    single = {
        template: case["class_CE"] + rng.normal(size=case["class_CE"].shape).astype(np.float32)
        for template in ("a photo of {label}", "{label}.", "an image of {label}")
    }
    found = zero_shot(**case, single=single)
    alone = [zero_shot(**case | {"class_CE": own}).metrics["auroc"] for own in single.values()]
    assert found.metrics["auroc"] == zero_shot(**case).metrics["auroc"]
    assert found.details["prompts"] == {
        "templates": [{"template": name, "value": value} for name, value in zip(single, alone, strict=True)],
        "spread": {"sd": pytest.approx(np.std(alone, ddof=1)), "low": min(alone), "high": max(alone)},
    }


def test_one_template_has_no_spread_and_none_is_recorded_without_templates():
    case = drawn()
    one = zero_shot(**case, single={"{label}": case["class_CE"]}).details["prompts"]
    assert one["spread"] is None
    assert "prompts" not in zero_shot(**case).details


def test_the_released_metrics_need_a_test_item_of_every_class():
    case = drawn()
    case["target_N"] = case["target_N"] % 3
    assert "official_f1" not in zero_shot(**case).metrics
    with pytest.raises(EvaluationError, match="no test item is of unclear; the released evaluator has no AUROC then"):
        zero_shot(**case, official=True)
