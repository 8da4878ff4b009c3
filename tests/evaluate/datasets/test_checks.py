"""Datasets that are not what their entry says: one clear message each, and nothing wrong in silence."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from evaluate.datasets.checks import undecodable
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.rows import MOST_SUBGROUPS
from store.errors import EvaluationError
from tests.evaluate.dataset_files import (
    FOLDER_FIELDS,
    FOLDER_IMAGES,
    FOLDERS,
    entry_of,
    folder_dataset,
    image_bytes,
    write_folders,
)


def refused(tmp_path, changed=None, allow=(), **changes):
    with pytest.raises(EvaluationError) as caught:
        load_dataset(folder_dataset(tmp_path, changed, **changes), tmp_path, allow=allow)
    return caught.value


def test_files_that_are_not_there_are_named_with_what_to_fetch(tmp_path):
    entry = entry_of(tmp_path, read=FOLDERS, fields=FOLDER_FIELDS, split={"rule": "field"})
    with pytest.raises(EvaluationError, match=r"drawn: not found below .*: drawn/\*/\*/\*-\*\.png") as caught:
        load_dataset(entry, tmp_path)
    assert caught.value.hint == "draw it (https://example.org/drawn)"


def test_a_class_without_test_image_is_refused(tmp_path):
    error = refused(tmp_path, classes={"cat": "a cat", "dog": "a dog", "cow": "a cow"}, positive=None)
    assert "1 of 3 classes have no test item: cow" in str(error)


def test_a_class_without_test_image_is_taken_if_told(tmp_path):
    entry = folder_dataset(tmp_path, classes={"cat": "a cat", "dog": "a dog", "cow": "a cow"}, positive=None)
    assert len(load_dataset(entry, tmp_path, allow=["empty_classes"]).test) == 3


def test_one_class_only_is_refused_even_if_told(tmp_path):
    error = refused(tmp_path, {"drawn/test/dog/p4-0.png": None}, allow=["empty_classes"])
    assert "all 2 test items are of one class, 'cat'" in str(error)


def test_labels_outside_the_list_are_named_with_their_number(tmp_path):
    more = {"drawn/test/cats/p5-0.png": 6, "drawn/test/cats/p5-1.png": 7, "drawn/test/cow/p6-0.png": 8}
    error = refused(tmp_path, more)
    assert str(error) == "drawn: 3 labels are not among its classes: 'cats' (2), 'cow' (1); did you mean 'cat'?"
    assert "label_map or ignore_labels" in error.hint


def test_further_labels_may_be_mapped_or_ignored(tmp_path):
    more = {"drawn/test/cats/p5-0.png": 6, "drawn/test/cow/p6-0.png": 8}
    entry = folder_dataset(tmp_path, more, label_map={"cats": "cat"}, ignore_labels=["cow"])
    dataset = load_dataset(entry, tmp_path)
    assert dataset.test.targets.tolist().count(0) == 3
    assert dataset.excluded == {"ignored label": 1}


def test_no_test_item_is_refused(tmp_path):
    error = refused(tmp_path, {name: None for name in FOLDER_IMAGES if "/test/" in name})
    assert "there is no test item; it has train 2" in str(error)


def test_a_patient_in_two_splits_is_refused_unless_told(tmp_path):
    moved = {"drawn/train/dog/p3-9.png": 9}
    error = refused(tmp_path, moved)
    assert "1 patients are in train and in test (p3)" in str(error)
    assert "allow: [shared_patients]" in error.hint
    dataset = load_dataset(folder_dataset(tmp_path, moved, allow=["shared_patients"]), tmp_path)
    assert dataset.caveats == ["1 patients are in train and in test (p3)"]


def test_equal_images_in_two_splits_are_reported_with_their_number(tmp_path, caplog):
    dataset = load_dataset(
        folder_dataset(tmp_path, {"drawn/test/dog/p4-0.png": 1, "drawn/test/dog/p4-1.png": 2}), tmp_path
    )
    assert dataset.duplicates == {"train/test": 2}
    assert "2 items of train and test show the same image" in caplog.text


def test_an_image_with_two_labels_is_reported(tmp_path):
    entry = folder_dataset(tmp_path, {"drawn/test/cat/p9-0.png": 31, "drawn/test/dog/p9-1.png": 31})
    assert load_dataset(entry, tmp_path).caveats == ["1 images of test are there several times with different labels"]


def test_a_number_that_the_source_does_not_say_is_reported(tmp_path):
    dataset = load_dataset(folder_dataset(tmp_path, counts={"train": 2, "test": 4}), tmp_path)
    assert dataset.caveats == ["test has 3 items, its source says 4"]


def table(tmp_path, records, **changes):
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    settings = {
        "read": {"format": "table", "files": ["list.csv"], "image": "image"},
        "fields": {"label": "kind"},
        "split": {"rule": "all_test"},
    }
    return entry_of(tmp_path, **settings | changes)


RECORDS = [{"image": f"{number}.png", "kind": ("cat", "dog")[number % 2]} for number in range(4)]


def test_too_many_missing_images_are_refused_and_few_are_counted(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(3)})
    with pytest.raises(
        EvaluationError, match=r"1 of 4 items cannot be used \(the image file is missing: 1\), more than"
    ):
        load_dataset(table(tmp_path, RECORDS), tmp_path)
    dataset = load_dataset(table(tmp_path, RECORDS, max_excluded=0.5), tmp_path)
    assert (len(dataset.test), dataset.excluded) == (3, {"the image file is missing": 1})


def test_unreadable_images_are_found(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(3)} | {"3.png": image_bytes(3)[:60]})
    dataset = load_dataset(table(tmp_path, RECORDS, max_excluded=0.5), tmp_path)
    bad = undecodable(dataset.test)
    assert list(bad) == [3]
    assert "cannot be decoded" in bad[3]


def test_a_column_that_is_not_there_is_named(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(4)})
    with pytest.raises(EvaluationError, match=r"no record has fields.patient: 'who'; there are image, kind"):
        load_dataset(table(tmp_path, RECORDS, fields={"label": "kind", "patient": "who"}), tmp_path)


def test_ids_that_occur_twice_are_refused(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(4)})
    with pytest.raises(EvaluationError, match="2 ids occur more than once: cat, dog"):
        load_dataset(table(tmp_path, RECORDS, fields={"label": "kind", "id": "kind"}), tmp_path)


def test_a_one_hot_row_with_two_classes_is_refused(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(3)})
    rows = [("1", "0"), ("0.0", "1.0"), ("1", "1")]
    records = [{"image": f"{number}.png", "cat": cat, "dog": dog} for number, (cat, dog) in enumerate(rows)]
    with pytest.raises(EvaluationError, match=r"1 labels are not among its classes: 'cat and dog' \(1\)"):
        load_dataset(table(tmp_path, records, fields={}, one_hot=True), tmp_path)
    assert load_dataset(table(tmp_path, records[:2], fields={}, one_hot=True), tmp_path).test.targets.tolist() == [0, 1]


def test_several_labels_may_be_a_text(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(3)})
    kinds = ("cat|dog", "none", "dog")
    records = [{"image": f"{number}.png", "kind": kind} for number, kind in enumerate(kinds)]
    entry = table(
        tmp_path,
        records,
        multi_label={"by": "text", "none": ["none"]},
        positive=None,
        negative_templates=["no {label}"],
    )
    assert load_dataset(entry, tmp_path).test.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


SURVIVAL = [
    {"who": "a", "days": "10", "dead": "1", "x": "0.5"},
    {"who": "b", "days": "20", "dead": "0", "x": "1.5"},
]


def survival(tmp_path, records, **changes):
    settings = {
        "tasks": {"survival": {"primary": "harrell_c"}},
        "read": {"format": "survival_table", "files": ["list.csv"], "features": ["x"]},
        "fields": {"id": "who", "time": "days", "event": "dead"},
        "split": {"rule": "digest", "by": "id", "salt": "s", "train": 0.0, "val": 0.0},
        "classes": None,
        "positive": None,
        "templates": None,
    }
    return table(tmp_path, records, **settings | changes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dead": "maybe"}, "c: the event column says 'maybe'; expected one of 1, 1.0, true, 0, 0.0, false"),
        ({"days": "-3"}, "c: expected a time of 0 or more, got '-3'"),
        ({"days": "soon"}, "c: time: expected a number, got 'soon'"),
        ({"days": "inf"}, "c: time: expected a finite number, got 'inf'"),
        ({"x": "big"}, "drawn: c: x: expected a number, got 'big'"),
        ({"x": "1e999"}, "drawn: c: x: expected a finite number, got '1e999'"),
    ],
)
def test_a_survival_table_is_read_strictly(changed, message, tmp_path):
    records = [*SURVIVAL, {"who": "c", "days": "5", "dead": "1", "x": "1"} | changed]
    with pytest.raises(EvaluationError, match=message):
        load_dataset(survival(tmp_path, records), tmp_path)


def test_a_patient_whose_time_is_not_known_is_counted(tmp_path):
    records = [*SURVIVAL, {"who": "c", "days": "", "dead": "1", "x": "1"}]
    with pytest.raises(EvaluationError, match=r"1 of 3 items cannot be used \(no time: 1\)"):
        load_dataset(survival(tmp_path, records), tmp_path)
    test = load_dataset(survival(tmp_path, records, max_excluded=0.5), tmp_path).test
    np.testing.assert_array_equal(test.times, [10, 20])


def test_tiles_of_a_slide_that_differ_in_their_label_are_refused(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(4)})
    records = [{**record, "slide": "s1"} for record in RECORDS]
    with pytest.raises(EvaluationError, match="the parts of 's1' differ in target: 0, 1"):
        load_dataset(
            table(
                tmp_path,
                records,
                fields={"label": "kind", "bag": "slide"},
                tasks={"diagnosis": {"primary": "auroc"}},
                split={"rule": "digest", "by": "id", "salt": "s", "train": 0.0, "val": 0.0},
            ),
            tmp_path,
        )


def test_the_digest_follows_everything_that_decides_a_result(tmp_path):
    first = load_dataset(folder_dataset(tmp_path), tmp_path)
    assert load_dataset(folder_dataset(tmp_path), tmp_path).digest == first.digest
    relabelled = load_dataset(folder_dataset(tmp_path, {"drawn/test/dog/p4-0.png": 11}), tmp_path)
    assert relabelled.digest != first.digest
    assert relabelled.split_digest != first.split_digest


def test_missing_values_are_refused_dropped_or_imputed(tmp_path):
    records = [
        {"who": who, "days": "5", "dead": "1", "x": x, "grade": grade}
        for who, x, grade in (("a", "1", "low"), ("b", "?", "low"), ("c", "3", "N/A"), ("d", "4", "high"))
    ]
    read = {"format": "survival_table", "files": ["list.csv"], "features": ["x"], "categories": ["grade"]}

    def loaded(**changes):
        return load_dataset(survival(tmp_path, records, read=read, **changes), tmp_path)

    with pytest.raises(EvaluationError, match=r"values are missing \(x: 1, grade: 1\): say missing: impute or"):
        loaded()
    dropped = loaded(missing="drop")
    assert dropped.test.ids == ["a", "d"]
    assert dropped.excluded == {"ignored missing value": 2}
    imputed = loaded(missing="impute")
    np.testing.assert_array_equal(imputed.test.features[:, 0], [1, np.nan, 3, 4])
    assert imputed.test.categories[:, 0].tolist() == ["low", "low", "", "high"]
    assert imputed.caveats == ["missing values were imputed (x: 1, grade: 1)"]
    assert imputed.digest != dropped.digest


def test_folds_are_part_of_the_splits_digest(tmp_path):
    digests = [
        load_dataset(survival(tmp_path, SURVIVAL, split=split), tmp_path).split_digest
        for split in ({"rule": "folds"}, {"rule": "folds", "count": 4}, {"rule": "folds", "seed": 1})
    ]
    assert len(set(digests)) == 3


def test_subgroups_are_words_or_bands_of_numbers_and_are_part_of_the_data(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(4)})
    ages = ("39", "40", "", "75.5")
    records = [{**record, "sex": "F", "years": age} for record, age in zip(RECORDS, ages, strict=True)]
    plain = load_dataset(table(tmp_path, records), tmp_path)
    rules = {"sex": {}, "age": {"column": "years", "bands": [40, 60]}}
    found = load_dataset(table(tmp_path, records, subgroups=rules), tmp_path)
    assert found.test.subgroups == {"sex": ["F"] * 4, "age": ["<40", "40-60", "not stated", ">=60"]}
    assert found.test.take([3, 0]).subgroups["age"] == [">=60", "<40"]
    assert plain.test.subgroups is None
    assert found.digest != plain.digest
    assert found.split_digest == plain.split_digest


def test_a_column_of_many_values_is_no_subgroup(tmp_path):
    write_folders(tmp_path, {f"{number}.png": number for number in range(4)})
    records = [{**RECORDS[number % 4], "years": str(number)} for number in range(MOST_SUBGROUPS + 1)]
    rules = {"age": {"column": "years"}}
    load_dataset(table(tmp_path, records[:-1], subgroups=rules), tmp_path)
    with pytest.raises(EvaluationError, match=r"subgroups\.age: the column has more than 20 values") as raised:
        load_dataset(table(tmp_path, records, subgroups=rules), tmp_path)
    assert "bands" in raised.value.hint
