"""``python -m evaluate list``, ``new``, ``check`` and ``phantom-slides``, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from evaluate.cli import commands_datasets
from evaluate.datasets.entry import read_entry
from evaluate.datasets.formats.rules import FORMATS
from evaluate.datasets.registry import DATA_VARIABLE, read_registry
from store.errors import ConfigError, EvaluationError
from tests.evaluate.dataset_files import FOLDER_FIELDS, FOLDERS, folder_dataset, image_bytes, write_entry, write_folders

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command line and return what it prints."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)

    def command(*line):
        get_command(commands_datasets.app)([str(part) for part in line], prog_name="evaluate", standalone_mode=False)
        return capsys.readouterr().out

    return command


def test_list_says_of_each_dataset_what_is_there_and_what_to_fetch(run, tmp_path):
    folder_dataset(tmp_path)
    out = run("list", "--data-root", tmp_path, "--datasets", tmp_path, "--modality", "xray")
    drawn = next(line for line in out.splitlines() if "drawn" in line)
    assert [word in drawn for word in ("xray", "zero_shot", "CC0 1.0", "open", "present")] == [True] * 5
    assert "mura: request it and unpack it to MURA-v1.1/" in out
    assert f"not found: {tmp_path}/MURA-v1.1/*/*/*/*_*/*.png" in out
    assert "1 of 15 datasets are below" in out
    assert "breastmnist" not in out


def test_list_prints_the_same_as_json(run, tmp_path):
    folder_dataset(tmp_path)
    found = json.loads(run("list", "--json", "--data-root", tmp_path, "--datasets", tmp_path))
    by_name = {each["name"]: each for each in found}
    assert len(found) == len(by_name) > 58
    assert (by_name["drawn"]["present"], by_name["drawn"]["missing"]) == (True, [])
    slake = by_name["slake"]
    assert slake["tasks"] == {"vqa": "vqa_overall"}
    assert f"{tmp_path}/Slake1.0/test.json" in slake["missing"]
    assert (slake["licence"], slake["source"]) == ("CC BY 4.0", "https://www.med-vqa.com/slake/")
    present = json.loads(run("list", "--json", "--present", "--data-root", tmp_path, "--datasets", tmp_path))
    assert [each["name"] for each in present] == ["drawn"]


def test_list_takes_the_places_of_a_pipeline(run, tmp_path):
    folder_dataset(tmp_path)
    pipelines = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
    pipelines["demo"]["evaluate"] |= {"datasets": ["."], "data_root": "."}
    config = tmp_path / "pipelines.yml"
    config.write_text(yaml.safe_dump(pipelines))
    found = json.loads(run("list", "--json", "--present", "--pipeline", "demo", "--config", config))
    assert [each["name"] for each in found] == ["drawn"]


@pytest.mark.parametrize(
    ("option", "value", "meant"), [("--task", "zeroshot", "zero_shot"), ("--modality", "xrays", "xray")]
)
def test_list_says_which_task_or_modality_was_meant(option, value, meant, run):
    with pytest.raises(ConfigError, match=rf"{option}: expected one of .*, got '{value}'; did you mean '{meant}'\?"):
        run("list", option, value)


@pytest.mark.parametrize("format_", FORMATS)
def test_new_writes_a_commented_dataset_that_is_valid(format_, run, tmp_path):
    out = run("new", "mine", "--format", format_, "--out", tmp_path)
    path = tmp_path / "mine.yaml"
    assert f"{path}: a valid dataset of format {format_}" in out
    assert read_entry(path).read.format == format_
    text = path.read_text()
    assert text.count("#") >= 10
    assert f"python -m evaluate check {path}" in text
    with pytest.raises(ConfigError, match="is there already"):
        run("new", "mine", "--format", format_, "--out", tmp_path)
    assert path.read_text() == text


def test_new_refuses_a_format_or_a_name_that_cannot_be(run, tmp_path):
    with pytest.raises(ConfigError, match=r"no format 'tables'; did you mean 'table'\?"):
        run("new", "mine", "--format", "tables", "--out", tmp_path)
    with pytest.raises(ConfigError, match="small letters, digits and '_', not 'My data'"):
        run("new", "My data", "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_dataset_is_evaluable_with_one_file_and_no_code(run, tmp_path):
    run("new", "mine", "--format", "folders", "--out", tmp_path / "own")
    names = [f"mine/{split}/{label}/a.png" for split in ("train", "test") for label in ("0", "1")]
    write_folders(tmp_path / "data", {name: seed for seed, name in enumerate(names)})
    out = run("check", tmp_path / "own/mine.yaml", "--data-root", tmp_path / "data")
    assert "test: 2 items, 2 distinct images" in out
    assert "  0 1, 1 1" in out


def test_check_says_what_a_dataset_holds(run, tmp_path):
    folder_dataset(tmp_path, {"drawn/test/dog/p4-1.png": 1})
    found = json.loads(run("check", "drawn", "--json", "--data-root", tmp_path, "--datasets", tmp_path))
    assert found["splits"]["test"] == {
        "items": 4,
        "patients": 2,
        "distinct_images": 4,
        "classes": {"cat": 2, "dog": 2},
    }
    assert found["duplicates"] == {"train/test": 1}
    assert found["caveats"] == ["1 items of train and test show the same image"]


def test_a_deep_check_finds_what_cannot_be_decoded_and_other_files(run, tmp_path):
    settings = {"read": FOLDERS, "fields": FOLDER_FIELDS, "split": {"rule": "field"}}
    folder_dataset(tmp_path, {"drawn/test/dog/p4-0.png": image_bytes(5)[:70]})
    write_entry(tmp_path, **settings, digests={"drawn/test/cat/p3-0.png": "md5:" + "0" * 32})
    arguments = ("check", tmp_path / "drawn.yaml", "--data-root", tmp_path)
    assert "test: 3 items" in run(*arguments)
    with pytest.raises(EvaluationError) as caught:
        run(*arguments, "--deep")
    first, second = str(caught.value).splitlines()
    assert first.startswith("drawn: drawn/test/cat/p3-0.png: its md5 is ")
    assert second.startswith("drawn: test: drawn/test/dog/p4-0.png: the image cannot be decoded")


def test_check_refuses_shared_patients_unless_told(run, tmp_path):
    folder_dataset(tmp_path, {"drawn/train/dog/p3-9.png": 9})
    arguments = ("check", tmp_path / "drawn.yaml", "--data-root", tmp_path)
    with pytest.raises(EvaluationError, match="1 patients are in train and in test"):
        run(*arguments)
    assert "note: 1 patients are in train" in run(*arguments, "--allow", "shared_patients")
    with pytest.raises(ConfigError, match=r"--allow: .*did you mean 'shared_patients'\?"):
        run(*arguments, "--allow", "shared_patient")


def test_phantom_slides_are_drawn_where_they_are_wanted(run, tmp_path):
    arguments = (
        "phantom-slides",
        "--out",
        tmp_path / "phantom_slides",
        "--train",
        4,
        "--val",
        0,
        "--test",
        4,
        "--tiles",
        4,
    )
    assert "8 slides of 4 tiles, 4 of them with a tumour" in run(*arguments)
    assert "test: 4 items, 2 patients, 16 tiles or files" in run("check", "phantom_slides", "--data-root", tmp_path)


@pytest.mark.end_to_end
def test_a_wrong_dataset_ends_the_program_with_one_message(tmp_path):
    write_entry(tmp_path, read=FOLDERS, split={"rule": "field"})
    done = subprocess.run(
        [sys.executable, "-m", "evaluate", "check", str(tmp_path / "drawn.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"error: {tmp_path}/drawn.yaml:")
    assert len(lines) == 2
    assert done.stdout == ""


def test_check_all_says_ok_missing_or_fails_of_every_dataset_in_a_line_each(run, tmp_path):
    folder_dataset(tmp_path)
    arguments = ("check", "--all", "--data-root", tmp_path, "--datasets", tmp_path)
    lines = run(*arguments).splitlines()
    by_name = {line.partition(":")[0]: line for line in lines}
    assert len(lines) == len(by_name) == len(read_registry([tmp_path]))
    assert by_name["drawn"] == "drawn: ok: train 2; test 3"
    assert by_name["busi"].startswith("busi: missing: Dataset_BUSI_with_GT/")
    folder_dataset(tmp_path, {"drawn/train/dog/p3-9.png": 9})
    found = CliRunner().invoke(commands_datasets.app, [*map(str, arguments), "--json"])
    assert found.exit_code == 1
    states = {each["name"]: (each["state"], each["why"]) for each in json.loads(found.stdout)}
    assert states["drawn"][0] == "fails"
    assert "1 patients are in train and in test" in states["drawn"][1]
    assert states["busi"][0] == "missing"


def test_check_wants_a_name_or_all(run):
    for line in (("check",), ("check", "drawn", "--all")):
        with pytest.raises(ConfigError, match="either the name of a dataset or --all"):
            run(*line)


def test_prepare_says_how_many_items_it_made_and_what_is_next(run, tmp_path):
    (tmp_path / "trainLabels.csv").write_text("image,level\n7_left,0\n7_right,1\n")
    write_folders(tmp_path, {"train/7_left.jpeg": 1, "train/7_right.jpeg": 2})
    out = run("prepare", "eyepacs", tmp_path, "--data-root", tmp_path / "data")
    assert f"{tmp_path}/data/eyepacs: 2 items" in out
    assert f"python -m evaluate check eyepacs --data-root {tmp_path}/data" in out
