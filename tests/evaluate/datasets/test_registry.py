"""The registry that is shipped: what it holds, and that each of its files can be what it says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from evaluate.datasets.entry import MODALITIES, DatasetEntry, Fields
from evaluate.datasets.formats.rules import FORMATS, needed_patterns
from evaluate.datasets.registry import DATA_VARIABLE, data_root, find_dataset, missing_files, read_registry, status
from evaluate.datasets.task_kinds import TASKS
from store.errors import ConfigError
from tests.evaluate.dataset_files import FOLDER_FIELDS, FOLDERS, folder_dataset, write_entry

ENTRIES = read_registry()

MEDMNIST = {
    "pathmnist": (9, 89996, 10004, 7180),
    "chestmnist": (14, 78468, 11219, 22433),
    "dermamnist": (7, 7007, 1003, 2005),
    "octmnist": (4, 97477, 10832, 1000),
    "pneumoniamnist": (2, 4708, 524, 624),
    "retinamnist": (5, 1080, 120, 400),
    "breastmnist": (2, 546, 78, 156),
    "bloodmnist": (8, 11959, 1712, 3421),
    "tissuemnist": (8, 165466, 23640, 47280),
    "organamnist": (11, 34561, 6491, 17778),
    "organcmnist": (11, 12975, 2392, 8216),
    "organsmnist": (11, 13932, 2452, 8827),
}
"""Classes and items as medmnist/info.py (version 3.0.2) of MedMNIST has them."""

UNIMED = (
    "acl_mri",
    "meniscal_mri",
    "breast_us",
    "thyroid_us",
    "chexpert_5x200",
    "rsna_pneumonia",
    "radimagenet",
    "ct_axial",
    "ct_coronal",
    "ct_sagittal",
    "dr_regular",
    "lc25000_lung",
    "lc25000_colon",
    "pcam",
    "nct_crc",
    "bach",
    "sicapv2",
    "osteosarcoma",
    "skin_cancer",
    "skin_tumor",
    "refuge",
    "fives",
    "odir_200x3",
)
"""The datasets of UniMed-CLIP's clipeval/dataset_catalog.json without ImageNet, by our names."""

TASK_METRICS = {
    "zero_shot": {"auroc", "accuracy", "balanced_accuracy"},
    "linear_probe": {"auroc", "accuracy", "balanced_accuracy"},
    "diagnosis": {"auroc", "balanced_accuracy"},
    "retrieval": {"mean_recall"},
    "vqa": {"vqa_overall"},
    "survival": {"harrell_c"},
}


def test_the_registry_covers_every_modality_and_task():
    assert len(ENTRIES) >= 58
    assert {entry.modality for entry in ENTRIES.values()} >= set(MODALITIES)
    tasks = Counter(task for entry in ENTRIES.values() for task in entry.tasks)
    assert set(tasks) == set(TASKS)
    assert min(tasks.values()) >= 4


def test_the_family_of_medmnist_is_as_its_authors_say():
    for name, (classes, *counts) in MEDMNIST.items():
        entry = ENTRIES[name]
        assert len(entry.classes) == classes
        assert list(entry.classes) == [str(label) for label in range(classes)]
        assert [entry.counts[split] for split in ("train", "val", "test")] == counts
        assert list(entry.digests) == [f"medmnist28/{name}.npz"]


def test_what_unimed_clip_evaluates_is_there_and_tagged():
    for name in UNIMED:
        assert ENTRIES[name].provenance.choice in {"inferred", "official"}
    official = {name for name, entry in ENTRIES.items() if entry.provenance.choice == "official"}
    lc25000 = {f"lc25000_{organ}{which}" for organ in ("lung", "colon") for which in ("", "_official")}
    assert official == {*lc25000, "chexpert_5x200", "chestmnist"}


def test_what_was_checked_against_a_source_says_when_and_which_parts():
    checked = {name for name, entry in ENTRIES.items() if entry.checked}
    assert checked >= {*MEDMNIST, "hyperkvasir_fold0", "hyperkvasir_fold1", "odir_200x3", "chexpert_5x200"}
    for name in MEDMNIST:
        assert ENTRIES[name].checked.parts == ["classes", "order", "counts", "licence", "digests"]
    text = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    listed = text.partition("Not checked: ")[2].partition("\n\n")[0]
    assert set(re.findall(r"\w+", listed)) == set(ENTRIES) - checked


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_what_a_reader_needs(name):
    entry = ENTRIES[name]
    assert len(entry.get) > 20
    assert (
        re.search(r"\b(19|20)\d\d\b", entry.citation)
        or "Genomic Data Commons" in entry.citation
        or "drawn" in entry.citation
    )
    assert all(use.primary in TASK_METRICS[task] for task, use in entry.tasks.items())
    assert len(set(entry.class_names)) == len(entry.classes)
    assert needed_patterns(entry.read)
    if "zero_shot" in entry.tasks:
        prompts = [prompt for per_class in entry.prompts() for prompt in per_class]
        assert len(set(prompts)) == len(prompts)
        assert not any("{" in prompt for prompt in prompts)


def test_two_datasets_do_not_read_the_same_files_as_one_task():
    places = Counter(
        (
            task,
            entry.split.model_dump_json(),
            entry.fields.split,
            *needed_patterns(entry.read),
            *entry.fields.model_dump().values(),
        )
        for entry in ENTRIES.values()
        for task in entry.tasks
    )
    assert [place for place, count in places.items() if count > 1] == []


def test_a_dataset_is_present_once_its_files_are(tmp_path):
    entry = folder_dataset(tmp_path / "data")
    assert status(entry, tmp_path).missing == ["drawn/*/*/*-*.png"]
    assert status(entry, tmp_path / "data").present
    assert missing_files(ENTRIES["slake"], tmp_path) == [
        "Slake1.0/train.json",
        "Slake1.0/validate.json",
        "Slake1.0/test.json",
        "Slake1.0/imgs/*",
    ]


def test_the_data_root_is_the_options_else_the_environments(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert str(data_root()) == "data"
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(tmp_path / "other") == tmp_path / "other"


def test_a_users_own_file_is_enough_and_takes_the_place_of_a_shipped_one(tmp_path):
    settings = {"read": FOLDERS, "fields": FOLDER_FIELDS, "split": {"rule": "field"}}
    write_entry(tmp_path, "mine", **settings)
    write_entry(tmp_path, "bach", **settings)
    entries = read_registry([tmp_path])
    assert set(entries) == {*ENTRIES, "mine"}
    assert entries["bach"].title == "Drawn"
    assert set(read_registry([tmp_path / "mine.yaml"])) == {*ENTRIES, "mine"}


def test_problems_of_all_files_are_said_at_once(tmp_path):
    write_entry(tmp_path, "one", read=FOLDERS)
    write_entry(tmp_path, "two", read=FOLDERS, split={"rule": "field"}, positive="cow")
    with pytest.raises(ConfigError) as caught:
        read_registry([tmp_path, tmp_path / "nothing"])
    said = str(caught.value)
    assert "one.yaml:1: missing key 'split'" in said
    assert "two.yaml:" in said
    assert "'cow' is not one of classes" in said
    assert "nothing: there is no dataset here" in said


def test_the_document_names_every_key_and_format():
    text = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    for name in (*DatasetEntry.model_fields, *Fields.model_fields, *FORMATS, *TASKS):
        assert f"`{name}`" in text, name
    assert f"`evaluate/datasets/entries/` has {len(ENTRIES)} of them" in text


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(ConfigError, match="no dataset 'breast_mnist'; did you mean 'breastmnist'"):
        find_dataset("breast_mnist", ENTRIES)
