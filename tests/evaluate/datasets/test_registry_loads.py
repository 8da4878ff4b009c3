"""Each of the registry's entries reads files laid out as it says: fields, labels, splits and images fit together."""

from __future__ import annotations

import pytest

from evaluate.datasets.loading import load_dataset
from evaluate.datasets.registry import read_registry, status
from tests.evaluate.fabricated import fabricate, labels_of

ENTRIES = read_registry()


@pytest.mark.parametrize("name", ENTRIES)
def test_files_as_the_entry_describes_them_are_read(name, tmp_path):
    entry = ENTRIES[name]
    assert not status(entry, tmp_path).present
    fabricate(entry, tmp_path)
    assert status(entry, tmp_path).present
    dataset = load_dataset(entry, tmp_path, allow=["empty_classes"])
    test = dataset.test
    assert dataset.excluded == {}
    if entry.split.rule not in {"all_test", "folds"}:
        assert len(dataset.require("train")) > 0
    if entry.classes:
        assert len(test) >= min(6, len(labels_of(entry)))
        assert test.targets.shape[1:] == ((len(entry.classes),) if entry.multi_label else ())
    if entry.fields.patient:
        assert test.patients is not None
    assert (test.images is not None) == (entry.read.format not in {"bags", "survival_table"} and not entry.fields.bag)
    columns = {"retrieval": test.captions, "vqa": test.answers, "survival": test.times}
    assert all(columns.get(task, "") is not None for task in entry.tasks)
