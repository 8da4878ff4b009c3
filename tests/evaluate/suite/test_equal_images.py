"""Equal images of a test split are resampled together, in every task, whoever their patients are."""

from __future__ import annotations

import pytest

from evaluate.models.addresses import parse_address
from evaluate.results.files import read_predictions
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from tests.evaluate.dataset_files import entry_of, image_bytes, write_folders
from tests.evaluate.tiny_model import write_model

READ = {
    "read": {"format": "folders", "files": ["drawn/{split}/{label}/{patient}-*.png"]},
    "fields": {"label": "label", "split": "split", "patient": "patient"},
    "split": {"rule": "field"},
    "tasks": {"zero_shot": {"primary": "auroc"}, "linear_probe": {"primary": "auroc"}},
}


@pytest.mark.parametrize("copies", [0, 1])
def test_an_image_that_two_patients_have_joins_them(tmp_path, copies):
    write_model(tmp_path / "model", seed=0)
    labels = ("cat", "dog")
    files = {
        f"drawn/{split}/{labels[n % 2]}/{split}{n}-0.png": image_bytes([n, *split.encode()], size=(70, 66))
        for split in ("train", "test")
        for n in range(8)
    }
    if copies:
        files["drawn/test/cat/test0-0.png"] = files["drawn/test/cat/test6-0.png"]
    write_folders(tmp_path / "data", files)
    suite = Suite(Settings(results=tmp_path / "results", data_root=tmp_path / "data", resamples=20))
    entry = entry_of(tmp_path, **READ)
    model = parse_address(f"local-dir:{tmp_path / 'model'}")
    records = suite.run_all(plan([model], [entry], tasks=(), data_root=tmp_path / "data"))
    found = {one.task: one for one in records if hasattr(one, "bootstrap")}
    assert {"zero_shot", "linear_probe"} <= set(found)
    for record in found.values():
        clusters = read_predictions(tmp_path / "results", record).clusters
        assert len(set(clusters)) == 8 - copies
        assert record.bootstrap.mode == ("cluster" if copies else "plain")
