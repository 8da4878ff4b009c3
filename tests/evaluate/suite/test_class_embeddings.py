"""Class embeddings of a dataset: whole ensembles and single templates, each text encoded once."""

from __future__ import annotations

import numpy as np

from evaluate.suite.class_embeddings import ABSENT, PRESENT, class_embeddings
from tests.evaluate.dataset_files import entry_of

READ = {"read": {"format": "folders", "files": ["d/{group}/{label}/*.png"]}, "fields": {"label": "label"}}
READ |= {"split": {"rule": "all_test"}}


class Encoder:
    """Encodes a text by its letters, and keeps what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        return np.array([[text.count(letter) + 0.1 for letter in "acdgot"] for text in texts], np.float32)


def mean_of(texts):
    rows = Encoder()(texts)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_the_whole_is_the_mean_of_all_prompts_and_a_template_that_of_its_own(tmp_path):
    classes = {"cat": {"name": "cat", "synonyms": ["tomcat"]}, "dog": "dog"}
    entry = entry_of(tmp_path, **READ, classes=classes, templates=["a {label}", "{label}!"])
    encoder = Encoder()
    found = class_embeddings(entry, encoder, several=False)
    assert len(set(encoder.asked)) == len(encoder.asked) == 6
    np.testing.assert_allclose(found.whole[PRESENT][0], mean_of(["a cat", "a tomcat", "cat!", "tomcat!"]), rtol=1e-5)
    np.testing.assert_allclose(found.single["{label}!"][PRESENT][0], mean_of(["cat!", "tomcat!"]), rtol=1e-5)
    np.testing.assert_allclose(found.single["a {label}"][PRESENT][1], mean_of(["a dog"]), rtol=1e-5)
    assert found.prompts == entry.prompts()


def test_a_template_goes_with_one_that_denies(tmp_path):
    several = {"multi_label": {"by": "text"}, "positive": None, "template_sets": ["xray"]}
    entry = entry_of(tmp_path, **READ, **several, templates=["a {label}"], negative_templates=["not a {label}"])
    found = class_embeddings(entry, Encoder(), several=True)
    np.testing.assert_allclose(found.single["a {label}"][ABSENT][1], mean_of(["not a a dog"]), rtol=1e-5)
    np.testing.assert_allclose(found.single["{label}."][ABSENT][0], mean_of(["a cat is absent."]), rtol=1e-5)
    assert found.prompts == [entry.prompts(), entry.prompts(negative=True)]


def test_groups_share_templates(tmp_path):
    groups = {"ct": {"classes": ["cat", "dog"]}, "mri": {"name": "MRI slice", "classes": ["dog", "cat"]}}
    entry = entry_of(
        tmp_path,
        **READ | {"fields": {"label": "label", "group": "group"}},
        groups=groups,
        tasks={"zero_shot": {"primary": "group_accuracy"}},
        templates=["{group} of {label}", "{label}"],
    )
    found = class_embeddings(entry, Encoder(), several=False)
    assert set(found.single) == {"{group} of {label}", "{label}"}
    np.testing.assert_allclose(found.single["{group} of {label}"]["mri"][1], mean_of(["MRI slice of a cat"]), rtol=1e-5)
    assert found.whole["ct"].shape == (2, 6)
