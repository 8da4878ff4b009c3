"""Lists of names and labels, tables with another separator, images in some folder, suffixes of any case."""

from __future__ import annotations

import pytest

from evaluate.datasets.formats.rules import any_suffix
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.registry import read_registry, status
from store.errors import EvaluationError
from tests.evaluate.dataset_files import entry_of, image_bytes, write_folders

LIST = {"format": "list", "files": ["d/train.txt", "d/test.txt"], "image": "d/{split}/{name}"}
LISTED = {"read": LIST, "fields": {"label": "label", "split": "split"}, "split": {"rule": "field"}}


def listed(tmp_path, test="b.png dog\na.png cat\n"):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/train.txt").write_text("a.png cat\nb.png dog\n\n")
    (tmp_path / "d/test.txt").write_text(test)
    names = [f"d/{split}/{name}.png" for split in ("train", "test") for name in "ab"]
    write_folders(tmp_path, {name: seed for seed, name in enumerate(names)})
    return entry_of(tmp_path, **LISTED)


def test_a_list_says_names_and_labels_and_its_items_keep_its_order(tmp_path):
    entry = listed(tmp_path)
    dataset = load_dataset(entry, tmp_path)
    assert dataset.test.ids == ["test-000000 b.png", "test-000001 a.png"]
    assert dataset.test.targets.tolist() == [1, 0]
    assert dataset.test.image_bytes(0) == image_bytes(3)
    assert len(dataset.splits["train"]) == 2


@pytest.mark.parametrize("line", ["a.png", "a b.png cat"])
def test_a_line_of_other_words_is_refused_by_its_number(line, tmp_path):
    entry = listed(tmp_path, f"b.png dog\n{line}\n")
    with pytest.raises(EvaluationError, match=rf"d/test\.txt:2: expected 'name label', .* got '{line}'"):
        load_dataset(entry, tmp_path)


def test_a_list_that_is_no_text_is_refused_and_a_missing_image_is_counted(tmp_path):
    entry = listed(tmp_path, "none.png dog\n")
    with pytest.raises(EvaluationError, match="the image file is missing: 1"):
        load_dataset(entry, tmp_path)
    (tmp_path / "d/test.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(EvaluationError, match=r"d/test\.txt: expected a text with a line 'name label'"):
        load_dataset(entry, tmp_path)


def test_a_table_may_have_another_separator_and_its_images_may_lie_in_some_folder(tmp_path):
    write_folders(tmp_path, {"d/x/deep/a[1].png": 1, "d/y/deep/b.png": 2})
    (tmp_path / "d/table.csv").write_text("file-name;kind\na[1].png;cat\nb.png;dog\n")
    read = {"format": "table", "files": ["d/table.csv"], "separator": ";", "image": "d/*/deep/{file-name}"}
    fields = {"id": "file-name", "label": "kind"}
    dataset = load_dataset(entry_of(tmp_path, read=read, fields=fields, split={"rule": "all_test"}), tmp_path)
    assert dataset.test.ids == ["a[1].png", "b.png"]
    assert dataset.test.image_bytes(0) == image_bytes(1)


def test_hyperkvasirs_folds_are_read_from_the_authors_split_and_exchange_train_and_test(tmp_path):
    entries = read_registry()
    labels = list({**entries["hyperkvasir_fold0"].classes, **entries["hyperkvasir_fold0"].label_map})
    lines = [f"{fold}-{label}.jpg;{label};{fold}" for label in labels for fold in (0, 1)]
    (tmp_path / "labeled-images").mkdir()
    (tmp_path / "labeled-images/2_fold_split.csv").write_text("\n".join(["file-name;class-name;split-index", *lines]))
    names = [f"labeled-images/lower-gi-tract/kind/x/{line.partition(';')[0]}" for line in lines]
    write_folders(tmp_path, {name: seed for seed, name in enumerate(names)})
    ids = {}
    for fold in (0, 1):
        entry = entries[f"hyperkvasir_fold{fold}"]
        assert entry.counts == {"train": 5338, "test": 5324} if fold == 0 else {"train": 5324, "test": 5338}
        dataset = load_dataset(entry, tmp_path)
        ids[fold] = {name: set(split.ids) for name, split in dataset.splits.items()}
        assert all(name.startswith(f"{fold}-") for name in ids[fold]["test"])
    assert ids[0]["train"] == ids[1]["test"]
    assert ids[0]["test"] == ids[1]["train"]


def test_a_suffix_is_met_in_any_case_and_images_with_others_are_said(tmp_path, caplog):
    names = ["cat/a.jpg", "cat/b.JPG", "dog/c.Jpg", "dog/d.jpeg", "dog/e.png", "dog/f.PNG", "dog/notes.txt"]
    write_folders(tmp_path, {f"d/{name}": seed for seed, name in enumerate(names)})
    read = {"format": "folders", "files": ["d/{label}/*.jpg"]}
    entry = entry_of(tmp_path, read=read, fields={"label": "label"}, split={"rule": "all_test"})
    assert load_dataset(entry, tmp_path).test.ids == ["d/cat/a.jpg", "d/cat/b.JPG", "d/dog/c.Jpg"]
    assert "images with other suffixes are left out: 2 .png, 1 .jpeg" in caplog.text


def test_a_dataset_whose_files_end_in_capitals_is_there(tmp_path):
    write_folders(tmp_path, {"d/cat/a.JPG": 1})
    read = {"format": "folders", "files": ["d/{label}/*.jpg"]}
    entry = entry_of(tmp_path, read=read, fields={"label": "label"}, split={"rule": "all_test"})
    assert status(entry, tmp_path).present
    for pattern in ("d/{label}/*", "d/{label}/*.*", "d/{label}/*.jp*"):
        read = {"format": "folders", "files": [pattern]}
        either = entry_of(tmp_path, read=read, fields={"label": "label"}, split={"rule": "all_test"})
        assert status(either, tmp_path).present == (pattern != "d/{label}/*.jp*")
    assert any_suffix("d/{label}/*.{kind}") == "d/{label}/*.{kind}"
    assert any_suffix("a.png") == "a.*"
