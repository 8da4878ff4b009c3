"""Results that are there: left alone where they are up to date, made anew where anything differs, and never lost."""

from __future__ import annotations

import logging

import pytest
from typer.testing import CliRunner

from evaluate.cli.program import app
from evaluate.datasets.registry import read_registry
from evaluate.models.addresses import parse_address
from evaluate.results.files import read_results
from evaluate.results.record import ModelFacts, ResultRecord, SkippedRecord
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from evaluate.suite.up_to_date import refuse_other_models, request_digest
from store.errors import ConfigError, TeacherError
from tests.evaluate.dataset_files import entry_of, image_bytes, write_entry, write_folders
from tests.evaluate.tiny_model import write_model

READ = {
    "read": {"format": "folders", "files": ["drawn/{split}/{label}/{patient}-*.png"]},
    "fields": {"label": "label", "split": "split", "patient": "patient"},
    "split": {"rule": "field"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, eight images of six patients."""
    folder = tmp_path_factory.mktemp("kept")
    for seed, name in enumerate(("model", "other/model")):
        write_model(folder / name, seed=seed)
    labels = ("cat", "dog")
    write_folders(
        folder / "data",
        {f"drawn/test/{labels[n % 2]}/p{n}-0.png": image_bytes(n, size=(70, 66)) for n in range(8)},
    )
    return folder


def run(place, entry, results, *, model="model", root=None, tasks=("zero_shot",), **changes):
    """Evaluate and return the records."""
    root = root or place / "data"
    suite = Suite(Settings(results=results, data_root=root, **{"resamples": 40, **changes}))
    evaluations = plan([parse_address(f"local-dir:{place / model}")], [entry], tasks=tasks, data_root=root)
    return [record for one in evaluations for record in suite.run(one)]


def was_there(caplog, *arguments, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="evaluate.suite.suite"):
        run(*arguments, **options)
    return "is there already" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"templates": ["a drawing of {label}"]},
        {"classes": {"cat": "a tabby", "dog": "a dog"}},
        {"positive": "dog"},
        {"tasks": {"zero_shot": {"primary": "accuracy"}}},
    ],
)
def test_another_prompt_class_name_positive_class_or_metric_is_another_result(place, tmp_path, caplog, change):
    entry = entry_of(tmp_path, **READ)
    run(place, entry, tmp_path / "r")
    assert was_there(caplog, place, entry, tmp_path / "r")
    assert not was_there(caplog, place, entry_of(tmp_path, **READ, **change), tmp_path / "r")


@pytest.mark.parametrize("change", [{"official": True}, {"mode": "plain"}, {"resamples": 50}])
def test_another_protocol_or_other_resamples_are_another_result(place, tmp_path, caplog, change):
    entry = entry_of(tmp_path, **READ)
    run(place, entry, tmp_path / "r")
    assert not was_there(caplog, place, entry, tmp_path / "r", **change)
    assert was_there(caplog, place, entry, tmp_path / "r", **change)


def test_a_result_whose_predictions_are_gone_is_made_again(place, tmp_path, caplog):
    entry = entry_of(tmp_path, **READ)
    run(place, entry, tmp_path / "r")
    (path,) = (tmp_path / "r").rglob("*.parquet")
    path.unlink()
    assert not was_there(caplog, place, entry, tmp_path / "r")
    assert path.is_file()


def test_a_wrong_data_root_costs_no_result(place, tmp_path):
    entry = entry_of(tmp_path, **READ)
    run(place, entry, tmp_path / "r")
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("drawn.*")}
    (said,) = run(place, entry, tmp_path / "r", root=tmp_path / "nothing")
    assert isinstance(said, SkippedRecord)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("drawn.*")} == before


def test_a_result_of_another_model_does_not_stay_where_this_one_has_none(place, tmp_path):
    entry = entry_of(tmp_path, **READ)
    run(place, entry, tmp_path / "r")
    run(place, entry, tmp_path / "r", model="other/model", root=tmp_path / "nothing")
    assert all(isinstance(record, SkippedRecord) for record in read_results(tmp_path / "r"))


def test_resamples_that_a_test_set_cannot_have_are_a_skipped_result_and_end_no_run(place, tmp_path):
    without = entry_of(tmp_path, **{**READ, "fields": {"label": "label", "split": "split"}})
    (said,) = run(place, without, tmp_path / "r", mode="cluster")
    assert "a resample by clusters needs the patient" in said.skipped
    assert "use stratified or plain" in said.skipped


def test_a_dataset_that_is_refused_ends_no_run_and_is_read_once(place, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("evaluate.suite.suite.load_dataset", lambda *a, **k: read.append(1) or load(*a, **k))
    from evaluate.datasets.loading import load_dataset as load

    entry = entry_of(tmp_path, **READ, classes={"cat": "a cat", "rat": "a rat"})
    suite = Suite(Settings(results=tmp_path / "r", data_root=place / "data"))
    addresses = [parse_address(f"{name}=local-dir:{place / name}") for name in ("model",)]
    evaluations = plan(addresses, [entry], tasks=(), data_root=place / "data") * 2
    found = [record for one in evaluations for record in suite.run(one)]
    assert all("4 labels are not among its classes: 'dog' (4)" in record.skipped for record in found)
    assert len(found) == 2
    assert len(read) == 1


def test_of_several_results_of_a_task_the_one_that_is_looked_for_is_written_last(place, tmp_path, monkeypatch):
    labels = ("cat", "dog")
    layout = {
        f"drawn/{split}/{labels[n % 2]}/{split}{n}-0.png": image_bytes([n, len(split)], size=(70, 66))
        for split in ("train", "test")
        for n in range(8)
    }
    write_folders(tmp_path / "data", layout)
    tasks = {"linear_probe": {"primary": "accuracy"}}
    entry = entry_of(tmp_path, **READ, tasks=tasks)
    written = []
    from evaluate.results.files import write_result as write

    monkeypatch.setattr(
        "evaluate.suite.suite.write_result", lambda *a, **k: written.append(a[1].task) or write(*a, **k)
    )
    found = run(place, entry, tmp_path / "r", root=tmp_path / "data", tasks=())
    assert written[-1] == found[0].task == "linear_probe"
    assert sorted(written) == sorted(record.task for record in found)


def test_images_that_two_splits_share_are_in_the_record(place, tmp_path):
    labels = ("cat", "dog")
    layout = {
        f"drawn/{split}/{labels[n % 2]}/{split}{n}-0.png": image_bytes(n, size=(70, 66))
        for split in ("train", "test")
        for n in range(4)
    }
    write_folders(tmp_path / "data", layout)
    run(place, entry_of(tmp_path, **READ), tmp_path / "r", root=tmp_path / "data")
    (record,) = read_results(tmp_path / "r")
    assert record.dataset.caveats == ("4 items of train and test show the same image",)


def test_what_the_caller_allows_the_tasks_do_not_refuse(place, tmp_path):
    labels = ("cat", "dog")
    layout = {
        f"drawn/{split}/{labels[n % 2]}/p{n}-{split}.png": image_bytes([n, len(split)], size=(70, 66))
        for split in ("train", "test")
        for n in range(8)
    }
    write_folders(tmp_path / "data", layout)
    entry = entry_of(tmp_path, **READ, tasks={"linear_probe": {"primary": "accuracy"}})
    refused = run(place, entry, tmp_path / "r", root=tmp_path / "data", tasks=())
    assert "8 patients are in train and in test" in refused[0].skipped
    found = run(place, entry, tmp_path / "r", root=tmp_path / "data", tasks=(), allow=("shared_patients",))
    assert isinstance(found[0], ResultRecord)


def find(place, entry, results, *addresses):
    evaluations = plan([parse_address(one) for one in addresses], [entry], tasks=(), data_root=place / "data")
    Suite(Settings(results=results, data_root=place / "data")).find(evaluations)


def test_a_name_that_another_model_has_is_refused_and_a_moved_model_is_not(place, tmp_path):
    entry = entry_of(tmp_path, **READ)
    run(place, entry, tmp_path / "r")
    with pytest.raises(ConfigError, match=r"the results of 'model' are those of .*, which is another model than"):
        find(place, entry, tmp_path / "r", f"local-dir:{place / 'other/model'}")
    find(place, entry, tmp_path / "r", f"local-dir:{place / 'model/../model'}")
    find(place, entry, tmp_path / "r", f"new=local-dir:{place / 'other/model'}")


def test_a_model_that_is_not_there_and_a_file_for_results_end_a_run_before_it_begins(place, tmp_path):
    entry = entry_of(tmp_path, **READ)
    with pytest.raises(TeacherError, match="not a model folder"):
        find(place, entry, tmp_path / "r", f"local-dir:{place / 'model'}", "local-dir:nowhere")
    with pytest.raises(ConfigError, match="expected a folder for results"):
        find(place, entry, tmp_path / "drawn.yaml", f"local-dir:{place / 'model'}")
    assert not (tmp_path / "r").exists()


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_a_task_that_no_dataset_is_for_is_said(place, tmp_path):
    write_entry(tmp_path, **READ)
    options = ["--datasets", tmp_path / "drawn.yaml", "--dataset", "drawn", "--data-root", place / "data"]
    with pytest.raises(ConfigError, match="no dataset is for vqa: drawn is for zero_shot"):
        call("run", "--model", f"local-dir:{place / 'model'}", *options, "--task", "vqa", "--results", tmp_path / "r")


def test_a_dataset_that_brings_its_features_needs_no_model(tmp_path):
    done = call("run", "--dataset", "wpbc", "--data-root", tmp_path, "--results", tmp_path / "r", "--dry-run", "--json")
    assert '"model": "own-features"' in done.stdout


def test_a_new_rule_for_equal_texts_outdates_retrieval_and_answers_and_nothing_else(tmp_path, monkeypatch):
    settings = Settings(results=tmp_path, data_root=tmp_path)
    entries = read_registry()
    of_task = {"retrieval": "roco", "vqa": "vqa_rad", "zero_shot": "breastmnist"}

    def digests():
        return {task: request_digest(entries[name], task, settings) for task, name in of_task.items()}

    before = digests()
    monkeypatch.setattr("evaluate.suite.up_to_date.RULE", 99)
    assert [task for task, digest in digests().items() if digest != before[task]] == ["retrieval", "vqa"]


def test_json_of_another_program_below_a_models_name_ends_no_run(tmp_path):
    other = tmp_path / "student/checkpoints/zarr.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"zarr_format": 3}')
    refuse_other_models(tmp_path, [ModelFacts(name="student", address="local-dir:x", role="other", digest="d")])
    assert other.read_text() == '{"zarr_format": 3}'
