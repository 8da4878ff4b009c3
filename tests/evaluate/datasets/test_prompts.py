"""Prompts of classes: shared template sets, synonyms, and one template at a time."""

from __future__ import annotations

import pytest

from evaluate.datasets.prompts import ClassText, filled, one_by_one, template_file, with_sets
from evaluate.datasets.registry import read_registry
from store.errors import ConfigError
from tests.evaluate.dataset_files import entry_of

ENTRIES = {name: entry for name, entry in read_registry().items() if "zero_shot" in entry.tasks}
READ = {"read": {"format": "folders", "files": ["drawn/{label}/*.png"]}, "fields": {"label": "label"}}
READ |= {"split": {"rule": "all_test"}}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_zero_shot_entry_has_six_templates_or_more_its_own_first(name):
    entry = ENTRIES[name]
    alone = entry.single_prompts()
    assert len(alone) >= 6
    assert list(alone)[: len(entry.templates)] == entry.templates
    assert all(len(own) >= 6 for own in entry.prompts())
    if entry.multi_label:
        assert len(entry.single_prompts(negative=True)) == len(alone)


@pytest.mark.parametrize("name", template_file().sets)
def test_a_set_has_the_forms_of_the_literature(name):
    templates = with_sets([], [name])
    noun = template_file().sets[name].image
    assert {"a photo of {label}", "a photo of {label}.", "this is a photo of {label}", "{label}."} <= set(templates)
    assert f"{noun} of {{label}}" in templates
    assert f"{noun.partition(' ')[2]} showing {{label}}" in templates
    negative = with_sets([], [name], negative=True)
    assert len(set(negative)) == len(set(templates)) == len(templates)
    assert not set(negative) & set(templates)


def test_a_synonym_stands_in_every_template_and_alone_in_none():
    texts = ["drusen", ClassText(name="macular edema", synonyms=["DME"])]
    assert filled(texts, ["a {label}", "{label}."]) == [
        ["a drusen", "drusen."],
        ["a macular edema", "a DME", "macular edema.", "DME."],
    ]
    assert one_by_one(texts, ["a {label}", "{label}."])["{label}."] == [["drusen."], ["macular edema.", "DME."]]


def test_prompts_of_a_class_take_the_place_of_templates_and_count_one_by_one():
    own = [ClassText(name="cat", prompts=["c1", "c2"]), ClassText(name="dog", prompts=["d1", "d2"])]
    assert filled(own, ["a {label}"]) == [["c1", "c2"], ["d1", "d2"]]
    assert one_by_one(own, ["a {label}"]) == {"prompt 1": [["c1"], ["d1"]], "prompt 2": [["c2"], ["d2"]]}
    assert one_by_one([own[0], ClassText(name="dog", prompts=["d1"])], []) == {}
    assert one_by_one([own[0], "dog"], ["a {label}"]) == {"a {label}": [["c1", "c2"], ["a dog"]]}


def test_sets_are_enough_for_a_dataset_of_one_or_of_several_labels(tmp_path):
    entry = entry_of(tmp_path, **READ, templates=None, template_sets=["mri", "ct"])
    assert "an MRI slice of a cat" in entry.prompts()[0]
    assert "a CT slice of a cat" in entry.prompts()[0]
    several = {"multi_label": {"by": "text"}, "positive": None}
    entry = entry_of(tmp_path, **READ, **several, templates=None, template_sets=["mri"])
    assert "an MRI slice without a cat" in entry.prompts(negative=True)[0]


def test_a_set_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(ConfigError, match="no template set 'x-ray'; did you mean 'xray'"):
        entry_of(tmp_path, **READ, template_sets=["x-ray"])
