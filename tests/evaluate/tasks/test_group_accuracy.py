"""Zero-shot classification against the same thing written as plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluate.tasks.group_accuracy import ZeroShotResult, class_embeddings, classify, oracle
from store.errors import CorpusError

CLASSES = {"ct": ["normal abdomen", "kidney stone", "cyst"], "mri": ["normal brain", "tumor"]}
TEMPLATES = ["{group} showing {label}", "This {group}: {label}", "{label}"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def encode(captions):
    """Unit-norm embeddings that depend on the caption alone."""
    return unit(np.stack([np.random.default_rng(list(text.encode())).normal(size=6) for text in captions]))


def drawn_images(count=40):
    rng = np.random.default_rng(0)
    groups = [list(CLASSES)[number] for number in rng.integers(2, size=count)]
    labels = [CLASSES[group][rng.integers(len(CLASSES[group]))] for group in groups]
    return unit(rng.normal(size=(count, 6))), labels, groups


def drawn_classes():
    return {
        group: class_embeddings(encode, names, group_name=group, templates=TEMPLATES)
        for group, names in CLASSES.items()
    }


def test_a_class_is_the_mean_of_its_prompts():
    found = class_embeddings(encode, CLASSES["ct"], group_name="CT slice", templates=TEMPLATES)
    for row, label in enumerate(CLASSES["ct"]):
        total = np.zeros(6)
        for template in TEMPLATES:
            total += encode([template.replace("{group}", "CT slice").replace("{label}", label)])[0]
        np.testing.assert_allclose(found[row], total / math.sqrt((total**2).sum()), rtol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_classify_counts_right_answers_among_the_groups_own_classes():
    image_NE, labels, groups = drawn_images()
    embedding = drawn_classes()
    found = classify(image_NE, labels, groups, classes=CLASSES, class_embedding=embedding)
    for group, names in CLASSES.items():
        right = total = 0
        for image, label, its_group in zip(image_NE, labels, groups, strict=True):
            if its_group == group:
                scores = [float(sum(a * b for a, b in zip(image, row, strict=True))) for row in embedding[group]]
                right += names[scores.index(max(scores))] == label
                total += 1
        assert found.by_group[group] == pytest.approx(right / total)
        assert 0 < found.by_group[group] < 1
        assert found.images[group] == total
    assert found.macro_accuracy == pytest.approx((found.by_group["ct"] + found.by_group["mri"]) / 2)


def test_an_image_that_is_its_class_is_always_right():
    embedding = drawn_classes()
    pairs = [(group, number) for group, names in CLASSES.items() for number in range(len(names))]
    found = classify(
        np.stack([embedding[group][number] for group, number in pairs]),
        [CLASSES[group][number] for group, number in pairs],
        [group for group, _ in pairs],
        classes=CLASSES,
        class_embedding=embedding,
    )
    assert found.by_group == {"ct": 1.0, "mri": 1.0}
    assert found.images == {"ct": 3, "mri": 2}


@pytest.mark.parametrize(("label", "group"), [("tumor", "ct"), ("kidney stone", "oct")])
def test_a_label_that_its_group_does_not_list_is_refused(label, group):
    image_NE, labels, groups = drawn_images()
    labels[3], groups[3] = label, group
    with pytest.raises(CorpusError, match=f"'{label}' in group '{group}'"):
        classify(image_NE, labels, groups, classes=CLASSES, class_embedding=drawn_classes())


def test_a_group_without_images_is_refused():
    image_NE, labels, groups = drawn_images()
    with pytest.raises(CorpusError, match="no image belongs to the groups oct"):
        classify(image_NE, labels, groups, classes={**CLASSES, "oct": ["x"]}, class_embedding=drawn_classes())


def test_embeddings_that_are_not_finite_are_counted_and_refused():
    image_NE, labels, groups = drawn_images()
    image_NE[2, 1], image_NE[5] = np.nan, np.inf
    with pytest.raises(CorpusError, match="2 image embeddings are not finite"):
        classify(image_NE, labels, groups, classes=CLASSES, class_embedding=drawn_classes())


def test_the_oracle_takes_the_best_of_each_group():
    images = {"ct": 3, "mri": 2}
    results = {
        "first": ZeroShotResult(by_group={"ct": 0.25, "mri": 0.75}, images=images),
        "second": ZeroShotResult(by_group={"ct": 0.5, "mri": 0.5}, images=images),
    }
    assert oracle(results) == ZeroShotResult(by_group={"ct": 0.5, "mri": 0.75}, images=images)
    assert oracle(results).macro_accuracy == 0.625
