"""Results of single models in one file."""

from __future__ import annotations

import json
import logging

import pytest

from evaluate.suite.results import ORACLE, ResultFile
from evaluate.tasks.group_accuracy import ZeroShotResult
from store.errors import ConfigError

ROLES = {"a": "teacher", "b": "teacher", "s": "student"}
IMAGES = {"ct": 4, "mri": 4}


@pytest.fixture
def file_of(tmp_path):
    """The result file as a pipeline sees it that has these models and this dataset."""

    def make(*, digest="d1", roles=ROLES):
        return ResultFile(path=tmp_path / "test.json", dataset="test", digest=digest, roles=roles)

    return make


def result(ct, mri, images=IMAGES):
    return ZeroShotResult(by_group={"ct": ct, "mri": mri}, images=images)


def add(file, name, *accuracies, images=IMAGES):
    file.add(name, result(*accuracies, images=images), spec_hash=f"hash of {name}", excluded={})
    return json.loads(file.path.read_text())


def accuracies(content):
    return {name: list(entry["by_modality"].values()) for name, entry in content["models"].items()}


def test_a_result_joins_those_that_are_there_and_the_oracle_is_of_all_teachers(file_of):
    add(file_of(), "s", 0.9, 0.9)
    add(file_of(), "b", 0.25, 0.75)
    content = add(file_of(), "a", 0.5, 0.5)
    assert accuracies(content) == {"a": [0.5, 0.5], "b": [0.25, 0.75], "s": [0.9, 0.9], ORACLE: [0.5, 0.75]}
    assert content["models"][ORACLE] == {
        "role": "oracle",
        "macro_accuracy": 0.625,
        "by_modality": {"ct": 0.5, "mri": 0.75},
    }
    assert [*content["models"]] == ["a", "b", "s", ORACLE]


def test_a_new_result_of_a_model_takes_the_place_of_its_old_one(file_of):
    add(file_of(), "a", 0.75, 0.75)
    assert accuracies(add(file_of(), "a", 0.25, 0.25)) == {"a": [0.25, 0.25], ORACLE: [0.25, 0.25]}


def test_without_a_teacher_there_is_no_oracle(file_of):
    assert ORACLE not in add(file_of(), "s", 0.5, 0.5)["models"]


def test_a_result_is_up_to_date_while_weights_and_dataset_are_the_same(file_of):
    assert file_of().up_to_date({"a": "hash of a"}) == set()
    add(file_of(), "a", 0.5, 0.5)
    assert file_of().up_to_date({"a": "hash of a", "b": "hash of b"}) == {"a"}
    assert file_of().up_to_date({"a": "another"}) == set()
    assert file_of(digest="d2").up_to_date({"a": "hash of a"}) == set()


@pytest.mark.parametrize("change", [{"digest": "d2"}, {"images": {"ct": 4, "mri": 3}}])
def test_results_of_another_dataset_are_replaced_and_named(file_of, caplog, change):
    add(file_of(), "a", 0.5, 0.5)
    add(file_of(), "b", 0.5, 0.5)
    images = change.pop("images", IMAGES)
    content = add(file_of(**change), "s", 0.25, 0.25, images=images)
    assert accuracies(content) == {"s": [0.25, 0.25]}
    assert "the old results were replaced (a, b)" in caplog.text
    assert list(content["digests"]["models"]) == ["s"]


def test_results_of_an_earlier_version_without_digests_are_kept_and_count_as_outdated(file_of):
    old = add(file_of(), "a", 0.5, 0.5)
    del old["digests"]
    file_of().path.write_text(json.dumps(old))
    assert accuracies(add(file_of(), "b", 0.75, 0.25))[ORACLE] == [0.75, 0.5]
    assert file_of().up_to_date({"a": "hash of a", "b": "hash of b"}) == {"b"}


def test_a_model_that_the_pipeline_no_longer_has_leaves_the_table_and_the_oracle(file_of, caplog):
    add(file_of(), "a", 0.5, 0.5)
    add(file_of(), "b", 1.0, 1.0)
    content = file_of(roles={"a": "teacher"}).settle()
    assert accuracies(content) == {"a": [0.5, 0.5], ORACLE: [0.5, 0.5]}
    assert "no b any more" in caplog.text
    assert json.loads(file_of().path.read_text()) == content


def test_settling_writes_nothing_where_nothing_changed(file_of, caplog):
    content = add(file_of(), "a", 0.5, 0.5)
    before = file_of().path.stat().st_ino
    with caplog.at_level(logging.INFO):
        assert file_of().settle() == content
    assert file_of().path.stat().st_ino == before
    assert caplog.text == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"models": []}'])
def test_a_file_that_holds_no_results_is_refused_and_left_alone(file_of, text):
    file_of().path.write_text(text)
    with pytest.raises(ConfigError, match=r"test\.json: is not a file of results"):
        add(file_of(), "a", 0.5, 0.5)
    assert file_of().path.read_text() == text
