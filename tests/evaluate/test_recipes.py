"""Adding a task and a dataset as CONTRIBUTING.md says: nothing but the places that it names is touched."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluate.cli.program import app
from evaluate.datasets.entry import read_entry
from evaluate.datasets.task_kinds import TASKS, TaskKind
from evaluate.metrics.classification import weighted_mean
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS, Metric
from evaluate.results.files import read_predictions, read_results
from evaluate.results.task_result import result_of
from evaluate.suite.task_runs import RUNS, Outcome
from store.errors import ConfigError
from tests.evaluate.dataset_files import FOLDER_FIELDS, FOLDERS, folder_dataset, image_bytes, write_entry, write_folders
from tests.evaluate.tiny_model import write_model


def above_median(image_NE, *, ids, primary):
    """A task: is an embedding's first entry above the median of all?"""
    columns = {"above": image_NE[:, 0] > np.median(image_NE[:, 0])}
    predictions = Predictions(ids=ids, columns=columns)
    return result_of("above_median", primary=primary, names=["above"], predictions=predictions, details={})


def run_above_median(embedder):
    split, image_NE = embedder.split(embedder.dataset.test)
    primary = embedder.dataset.entry.tasks["above_median"].primary
    result = above_median(image_NE, ids=split.ids, primary=primary)
    return Outcome(results=[result], excluded=embedder.excluded)


@pytest.fixture
def task(monkeypatch):
    """A task with a metric of its own, added in the three tables."""
    metric = Metric(title="share above", function=lambda columns, weights: weighted_mean(columns["above"], weights))
    monkeypatch.setitem(METRICS, "above", metric)
    monkeypatch.setitem(TASKS, "above_median", TaskKind())
    monkeypatch.setitem(RUNS, "above_median", run_above_median)


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_every_task_has_a_run():
    assert set(RUNS) == set(TASKS)


def test_a_task_that_is_in_the_tables_runs_and_is_reported_like_the_others(tmp_path, task):
    write_model(tmp_path / "m")
    images = {f"drawn/test/cat/p{number}-0.png": image_bytes(number, size=(70, 66)) for number in range(6)}
    write_folders(tmp_path / "data", images)
    tasks = {"above_median": {"primary": "above"}}
    path = write_entry(tmp_path, read=FOLDERS, fields=FOLDER_FIELDS, split={"rule": "field"}, tasks=tasks)
    options = ["--datasets", path, "--data-root", tmp_path / "data", "--results", tmp_path / "r", "--resamples", "50"]
    model = ["--model", f"local-dir:{tmp_path / 'm'}", "--dataset", "drawn"]
    done = call("run", *model, *options, "--task", "above_median", "--json")
    assert [record["metrics"]["above"]["value"] for record in json.loads(done.stdout)] == [0.5]
    (record,) = read_results(tmp_path / "r")
    assert read_predictions(tmp_path / "r", record).columns["above"].sum() == 3
    assert "share above 0.500 [" in call("run", *model, *options).stdout
    call("leaderboard", "--results", tmp_path / "r")
    call("report", "--results", tmp_path / "r")
    assert "Above median" in (tmp_path / "r/report.html").read_text()


def test_a_task_that_is_not_in_the_tables_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no task 'above_median'; there are zero_shot, linear_probe"):
        call("run", "--model", "local-dir:x", "--task", "above_median")
    with pytest.raises(ConfigError, match=r"tasks\.zero_shoot.*no task 'zero_shoot'; did you mean 'zero_shot'"):
        folder_dataset(tmp_path, tasks={"zero_shoot": {"primary": "auroc"}})


def test_a_dataset_is_one_file_that_the_program_writes_and_checks(tmp_path):
    call("new", "mine", "--format", "folders", "--out", tmp_path)
    entry = read_entry(tmp_path / "mine.yaml")
    images = {
        f"mine/{split}/{label}/{place}{number}.png": image_bytes([place, number, len(split)])
        for split in ("train", "test")
        for place, label in enumerate(entry.classes)
        for number in range(3)
    }
    write_folders(tmp_path / "data", images)
    done = call("check", tmp_path / "mine.yaml", "--data-root", tmp_path / "data", "--json")
    assert json.loads(done.stdout)["splits"]["test"]["classes"] == dict.fromkeys(entry.classes, 3)
