"""``evaluate run``, ``predict`` and ``overlap`` as a user calls them, in this process."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from evaluate.cli.program import app
from store.errors import ConfigError
from tests.evaluate.dataset_files import image_bytes, write_entry
from tests.evaluate.tiny_model import write_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a dataset of four images, and a pipeline that names the model as a teacher."""
    folder = tmp_path_factory.mktemp("commands")
    write_model(folder / "model")
    for number in range(8):
        path = folder / "data/drawn/test" / ("cat", "dog")[number % 2] / f"p{number}-0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number, size=(70, 66)))
    (folder / "entries").mkdir()
    write_entry(
        folder / "entries",
        read={"format": "folders", "files": ["drawn/{split}/{label}/{patient}-*.png"]},
        fields={"label": "label", "split": "split", "patient": "patient"},
        split={"rule": "field"},
    )
    pipeline = {
        "corpora": {"c": {"files": ["none/*.tar"]}},
        "store": {"path": "store", "corpus": "c"},
        "teachers": {"tiny": {"folder": "model", "embed_dim": 32}},
        "train": {"students": {}},
        "evaluate": {
            "out": "out",
            "datasets": ["entries"],
            "data_root": "data",
            "zero_shot": {
                "own": {"corpus": "c", "label": "l", "group": "g", "classes": {"g": ["x"]}, "templates": ["{label}"]}
            },
        },
    }
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"p": pipeline}))
    return folder


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def run_options(place):
    return ["--datasets", place / "entries", "--data-root", place / "data", "--dataset", "drawn", "--task", "zero_shot"]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(place, tmp_path):
    address = f"local-dir:{place / 'model'}"
    done = call("run", "--model", address, *run_options(place), "--results", tmp_path, "--dry-run", "--json")
    assert json.loads(done.stdout) == [{"model": "model", "task": "zero_shot", "dataset": "drawn", "missing": ""}]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_datasets_of_the_pipeline_too(place):
    options = ["--pipeline", "p", "--config", place / "pipelines.yaml", "--dry-run", "--json"]
    own = {"model": "tiny", "task": "zero_shot", "dataset": "own", "missing": ""}
    assert json.loads(call("run", *options).stdout) == [own]
    both = json.loads(call("run", *options, "--dataset", "own", "--dataset", "drawn").stdout)
    assert both == [own, own | {"dataset": "drawn"}]


def test_a_run_prints_its_records_and_leaves_them(place, tmp_path):
    address = f"m=local-dir:{place / 'model'}"
    options = ["--results", tmp_path, "--resamples", "50", "--json"]
    done = call("run", "--model", address, *run_options(place), *options)
    (record,) = json.loads(done.stdout)
    assert record["model"]["name"] == "m"
    assert record["metrics"]["auroc"]["resamples"] == 50
    assert (tmp_path / "m/zero_shot/drawn.json").is_file()
    assert (tmp_path / "m/zero_shot/drawn.parquet").is_file()


def test_what_is_there_is_evaluated_only_if_it_is_asked_again_also_by_older_names(place, tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr("evaluate.suite.suite.run_task", lambda *a, **k: evaluated.append(1) or run_task(*a, **k))
    from evaluate.suite.task_runs import run_task

    options = ["--model", f"local-dir:{place / 'model'}", *run_options(place), "--results", tmp_path]
    for more, times in (([], 1), ([], 1), (["--skip-existing"], 1), (["--again"], 2), (["--overwrite"], 3)):
        assert call("run", *options, "--resamples", "50", *more).exit_code == 0
        assert len(evaluated) == times


def test_a_pipeline_brings_its_models_datasets_and_folders(place):
    options = ["--pipeline", "p", "--config", place / "pipelines.yaml", "--resamples", "50", "--json"]
    done = call("run", *options, "--dataset", "drawn")
    (record,) = json.loads(done.stdout)
    assert record["model"] == record["model"] | {"name": "tiny", "address": "teacher:tiny", "role": "teacher"}
    assert (place / "out/results/tiny/zero_shot/drawn.json").is_file()


def test_a_run_where_nothing_could_be_done_ends_with_the_exit_code_of_gaps(place, tmp_path):
    options = [
        "--datasets",
        place / "entries",
        "--data-root",
        tmp_path,
        "--dataset",
        "drawn",
        "--results",
        tmp_path / "r",
    ]
    done = call("run", "--model", f"local-dir:{place / 'model'}", *options)
    assert done.exit_code == 4
    assert "skipped: not found below" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "local-dir:x", "--task", "zeroshot"], "no task 'zeroshot'; did you mean 'zero_shot'"),
        (["--model", "local-dir:x", "--mode", "patients"], "no mode 'patients' of resampling"),
        (["--dataset", "breastmnist"], "no model is named"),
        (["--model", "local-dir:x", "--dataset", "brestmnist"], "no dataset 'brestmnist'; did you mean 'breastmnist'"),
    ],
)
def test_what_is_not_there_is_refused_with_what_was_meant(arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        call("run", *arguments, "--data-root", tmp_path)


def test_a_model_that_the_pipeline_does_not_have_is_refused(place):
    options = ["--pipeline", "p", "--config", place / "pipelines.yaml", "--dataset", "drawn"]
    with pytest.raises(ConfigError, match="the pipeline has no model 'tinny'; did you mean 'tiny'"):
        call("run", *options, "--model", "tinny")


def test_predict_gives_shares_that_sum_to_one_for_each_image(place, tmp_path):
    paths = [tmp_path / f"{seed}.png" for seed in range(2)]
    for seed, path in enumerate(paths):
        path.write_bytes(image_bytes(seed, size=(80, 60)))
    address = f"local-dir:{place / 'model'}"
    classes = ["--class", "a cat", "--class", "a dog", "--template", "an image of {label}"]
    found = json.loads(call("predict", *paths, "--model", address, *classes, "--json").stdout)
    for one, path in zip(found, paths, strict=True):
        assert one["image"] == str(path)
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert one["predicted"] == max(one["scores"], key=one["scores"].get)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to tell apart"),
        (["--class", "cat"], "at least two different classes"),
        (["--class", "cat", "--class", "dog", "--template", "a {lable}"], "unknown field 'lable'"),
        (["--dataset", "breastmnist", "--template", "a {label}"], "the dataset has its own prompts"),
        (["--dataset", "wpbc"], "wpbc has no classes with prompts: it is for survival"),
        (["--dataset", "chestmnist"], "an image may show several of its classes"),
    ],
)
def test_predict_refuses_what_tells_nothing_apart(place, tmp_path, arguments, message):
    path = tmp_path / "x.png"
    path.write_bytes(image_bytes(1, size=(80, 60)))
    with pytest.raises(ConfigError, match=message):
        call("predict", path, "--model", f"local-dir:{place / 'model'}", *arguments)


def test_predict_knows_the_classes_of_a_dataset_that_the_pipeline_names(place, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(image_bytes(1, size=(80, 60)))
    options = ["--pipeline", "p", "--config", place / "pipelines.yaml", "--dataset", "drawn", "--json"]
    (found,) = json.loads(call("predict", path, "--model", "tiny", *options).stdout)
    assert list(found["scores"]) == ["a cat", "a dog"]


def test_predict_names_an_image_that_cannot_be_read(place, tmp_path):
    path = tmp_path / "page.png"
    path.write_text("<html>")
    with pytest.raises(ConfigError, match=r"page\.png: "):
        call("predict", path, "--model", f"local-dir:{place / 'model'}", "--class", "a", "--class", "b")


def test_names_in_brackets_are_printed_as_they_are(place, tmp_path):
    address = f"a[b][/x]=local-dir:{place / 'model'}"
    for more in (["--dry-run"], ["--resamples", "20"]):
        assert "a[b][/x]" in call("run", "--model", address, *run_options(place), "--results", tmp_path, *more).output
    path = tmp_path / "x[y].png"
    path.write_bytes(image_bytes(1, size=(80, 60)))
    model = f"local-dir:{place / 'model'}"
    shown = call("predict", path, "--model", model, "--class", "[c]", "--class", "d[/e]").output
    for text in ("x[y].png", "[c]", "d[/e]"):
        assert text in shown
