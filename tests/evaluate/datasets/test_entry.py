"""The contents of a dataset's YAML file; all faults of a file are reported at once."""

from __future__ import annotations

import re

import pytest

from evaluate.datasets.entry import read_entry
from store.errors import ConfigError
from tests.evaluate.dataset_files import FOLDER_FIELDS, FOLDERS, ORIGINS, entry_of, write_entry

GOOD = {"read": FOLDERS, "fields": FOLDER_FIELDS, "split": {"rule": "field"}}


def problems(tmp_path, **changes):
    """The lines of the error of an entry, without the file and the line number."""
    path = write_entry(tmp_path, **{**GOOD, **changes})
    with pytest.raises(ConfigError) as caught:
        read_entry(path)
    lines = str(caught.value).splitlines()
    assert all(re.match(rf"{re.escape(str(path))}:\d+: ", line) for line in lines)
    return [line.split(": ", 1)[1] for line in lines]


def test_prompts_are_filled_with_what_a_class_is_called(tmp_path):
    classes = {"cat": "a cat", "dog": {"name": "a dog", "prompts": ["my dog", "your dog"]}}
    entry = entry_of(tmp_path, **GOOD | {"classes": classes, "templates": ["see {label}", "is this {label}?"]})
    assert entry.class_names == ["a cat", "a dog"]
    assert entry.prompts() == [["see a cat", "is this a cat?"], ["my dog", "your dog"]]
    assert entry.positive_index == 0


def test_every_problem_is_said_at_once_by_its_line(tmp_path):
    path = write_entry(tmp_path, **GOOD)
    lines = path.read_text().splitlines()
    lines[lines.index("modality: xray")] = "modality: xrays"
    lines.append("licens: CC0")
    lines.append("max_excluded: 2")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError) as caught:
        read_entry(path)
    said = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in said] == ["modality", "licens", "max_excluded"]
    assert f"{path}:{lines.index('modality: xrays') + 1}: modality: expected one of 'xray'" in said[0]
    assert "did you mean 'licence'?" in said[1]
    assert "must be less than 1, got 2" in said[2]


def test_an_unknown_format_is_told_from_the_known_ones(tmp_path):
    (line,) = problems(tmp_path, read={"format": "foldrs", "files": ["a"]})
    assert line.startswith("read.format: expected one of 'folders', 'table'")
    assert line.endswith("did you mean 'folders'?")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"positive": None}, "tasks.zero_shot: of two classes one is positive: say which with positive:"),
        ({"positive": "cats"}, "positive: 'cats' is not one of classes; did you mean 'cat'?"),
        ({"classes": {"cat": "a cat"}}, "tasks.zero_shot: needs classes: at least two, there are 1"),
        ({"label_map": {"kitten": "cats"}}, "label_map.kitten: 'cats' is not one of classes; did you mean 'cat'?"),
        ({"templates": []}, "tasks.zero_shot: needs templates, template_sets, or prompts of every class"),
        ({"templates": ["a {lable}"]}, "templates.0: unknown field 'lable' in braces; did you mean 'label'?"),
        ({"templates": ["an image"]}, "templates.0: lacks {label}: every class would have the same prompt"),
        (
            {"tasks": {"zero_shot": {"primary": "aucroc"}}},
            "tasks.zero_shot.primary: 'aucroc' is no metric; did you mean 'auroc'?",
        ),
        ({"tasks": {"retrieval": {"primary": "mean_recall"}}}, "tasks.retrieval: needs fields.caption"),
        ({"fields": {"split": "split"}}, "tasks.zero_shot: needs fields.label"),
        ({"fields": {"label": "label"}}, "split: the rule 'field' needs fields.split"),
        ({"provenance": {k: v for k, v in ORIGINS.items() if k != "classes"}}, "provenance: missing key 'classes'"),
        (
            {"split": {"rule": "digest", "by": "patient", "salt": "s"}, "fields": {"label": "label"}},
            "split: by: patient needs fields.patient",
        ),
        (
            {"tasks": {"linear_probe": {"primary": "auroc"}}, "split": {"rule": "all_test"}},
            "tasks.linear_probe: needs items for training; by split, all are for testing",
        ),
        (
            {"multi_label": {"by": "list"}, "positive": None},
            "tasks.zero_shot: of a multi-label dataset needs negative_templates or template_sets",
        ),
        (
            {"one_hot": True, "multi_label": {"by": "columns"}, "negative_templates": ["no {label}"]},
            "one_hot: several columns may be 1 in a multi-label dataset; drop one of the two keys",
        ),
        (
            {"digests": {"a.npz": "md5:12"}},
            "digests.a.npz: string should match pattern '^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$', got 'md5:12'",
        ),
        ({"groups": {"ct": {"classes": ["cat"]}}}, "groups: needs fields.group, the column that says the group"),
        ({"fields": {**FOLDER_FIELDS, "group": "patient"}}, "fields.group: needs groups: the classes of each"),
        ({"templates": ["{group} with {label}"]}, "templates: {group} needs groups"),
        (
            {"groups": {"ct": {"classes": ["cat", "dogs"]}}, "fields": {**FOLDER_FIELDS, "group": "patient"}},
            "groups.ct: 'dogs' is not one of classes; did you mean 'dog'?",
        ),
        (
            {"tasks": {"linear_probe": {"primary": "auroc"}}, "groups": {"ct": {"classes": ["cat"]}}},
            "groups: are for zero_shot alone, of images with one class",
        ),
        ({"read": {"format": "webdataset"}}, "read: the format webdataset needs either files or a corpus"),
        (
            {"read": {"format": "folders", "files": ["/data/{label}/*.png"]}},
            "read.files.0: expected a path below the data root, got '/data/{label}/*.png'",
        ),
        (
            {"read": {"format": "folders", "files": ["a/{the label}/*.png"]}},
            "read.files.0: a part of a path has a name of letters, digits and '_', not 'the label'",
        ),
    ],
)
def test_what_does_not_go_together_is_said(changes, expected, tmp_path):
    assert expected in problems(tmp_path, **changes)


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    path = tmp_path / "drawn.txt"
    path.write_text("name: drawn")
    with pytest.raises(ConfigError, match=r"expected a \.yaml file"):
        read_entry(path)
    with pytest.raises(ConfigError, match=r"nope\.yaml: No such file"):
        read_entry(tmp_path / "nope.yaml")
    write_entry(tmp_path, **GOOD).rename(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match=r"other\.yaml:1: name: 'drawn' is not the name of the file, 'other'"):
        read_entry(tmp_path / "other.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="expected a mapping, got a list"):
        read_entry(tmp_path / "list.yaml")


TABLE = {"format": "survival_table", "files": ["list.csv"], "features": ["x"]}
SURVIVAL = {
    "tasks": {"survival": {"primary": "harrell_c"}},
    "read": TABLE,
    "fields": {"time": "days", "event": "dead"},
    "split": {"rule": "folds"},
    "classes": None,
    "positive": None,
    "templates": None,
}
IMAGES = {"read": FOLDERS, "fields": FOLDER_FIELDS, "split": {"rule": "field"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (SURVIVAL | {"read": TABLE | {"categories": ["x"]}}, "a column is a number or a word, not both: x"),
        (SURVIVAL | {"read": TABLE | {"features": []}}, "a table needs columns"),
        (SURVIVAL | {"read": TABLE | {"features": ["x", "days"]}}, "read: 'days' is the outcome"),
        (SURVIVAL | {"read": TABLE | {"categories": ["dead"]}}, "read: 'dead' is the outcome"),
        (SURVIVAL | {"split": {"rule": "all_test"}}, r"needs items for training.*\{rule: folds\} trains on the others"),
        (SURVIVAL | {"tasks": {"retrieval": {"primary": "mean_recall"}}}, "is for images; the items .* are table"),
        (IMAGES | {"split": {"rule": "folds"}, "tasks": {"linear_probe": {"primary": "auroc"}}}, "has no folds"),
        (IMAGES | {"tasks": {"diagnosis": {"primary": "auroc"}}}, "is for bags; the items of this dataset are images"),
        (IMAGES | {"missing": "impute"}, "missing: is for tables of features"),
        (IMAGES | {"subgroups": {"age": {"bands": [60, 40]}}}, "expected ascending bounds"),
        (IMAGES | {"subgroups": {"age group": {}}}, "subgroups"),
        (
            IMAGES | {"classes": {"a": "a", "b": "b", "c": "c"}, "positive": None, "prevalence": 0.1},
            "prevalence: is for datasets of two classes",
        ),
        (IMAGES | {"sensitivity": 1.5}, "sensitivity"),
        (IMAGES | {"tasks": {"retrieval": {"primary": "mean_recall"}}, "subgroups": {"sex": {}}}, "subgroups: are for"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        entry_of(tmp_path, **changes)
