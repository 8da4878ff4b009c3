"""``check`` and ``run`` refuse the same: tiny datasets provoke each refusal."""

from __future__ import annotations

import csv
import re
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluate.cli.program import app
from evaluate.datasets.entry import read_entry
from evaluate.models.addresses import parse_address
from evaluate.results.record import SkippedRecord
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from evaluate.tasks.diagnosis import diagnose_by_abmil
from evaluate.tasks.fitting.abmil import Abmil
from evaluate.tasks.survival import survival_abmil
from store.errors import MMKDError
from tests.evaluate.dataset_files import image_bytes, write_entry
from tests.evaluate.tiny_model import write_model

ROWS = [
    {
        "id": f"{split}{number}",
        "image": f"{split}{number}.png",
        "label": ("cat", "dog")[number % 2],
        "split": split,
        "patient": f"p {split} {number}",
        "caption": f"a caption of number {number}",
        "question": "what is it?",
        "answer": ("cat", "dog")[number % 2],
        "sex": ("F", "M")[number // 2 % 2],
    }
    for split, count in (("train", 6), ("val", 2), ("test", 4))
    for number in range(count)
]
IMAGES = {
    "read": {"format": "table", "files": ["list.csv"], "image": "image"},
    "fields": {name: name for name in ("id", "label", "split", "patient", "caption", "question", "answer")},
    "split": {"rule": "field"},
    "tasks": {
        "zero_shot": {"primary": "auroc"},
        "linear_probe": {"primary": "auroc"},
        "retrieval": {"primary": "mean_recall"},
        "vqa": {"primary": "vqa_overall"},
    },
}
LABELS = {
    "multi_label": {"by": "text"},
    "positive": None,
    "negative_templates": ["no {label}"],
    "tasks": {"zero_shot": {"primary": "auroc"}, "linear_probe": {"primary": "auroc"}},
}
RNG = np.random.default_rng(0)
PATIENTS = [
    {
        "id": f"q{number}",
        "patient": f"q{number}",
        "split": ("train", "train", "val", "test")[number % 4],
        "days": f"{RNG.exponential() + 0.01:.3f}",
        "dead": str(number % 3 % 2),
        "x": f"{RNG.normal():.3f}",
        "grade": "abc"[number % 3],
    }
    for number in range(40)
]
TABLE = {
    "read": {"format": "survival_table", "files": ["list.csv"], "features": ["x"], "categories": ["grade"]},
    "fields": {"id": "id", "patient": "patient", "split": "split", "time": "days", "event": "dead"},
    "split": {"rule": "field"},
    "tasks": {"survival": {"primary": "harrell_c"}},
    "classes": None,
    "positive": None,
    "templates": None,
    "provenance": {"choice": "ours", "split": "ours", "metrics": "ours"},
}
FOLDS = {"split": {"rule": "folds"}}
SLIDES = {
    "read": {"format": "bags", "files": ["list.csv"], "bags": "{id}.npy"},
    "fields": {name: name for name in ("id", "label", "split", "patient")},
    "split": {"rule": "field"},
    "tasks": {"diagnosis": {"primary": "auroc"}},
    "templates": None,
    "provenance": {"choice": "ours", "classes": "ours", "split": "ours", "metrics": "ours"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "m")
    return folder / "m"


def changed(rows, when, **values):
    """Change the rows for which ``when`` holds; None as a value of ``values`` leaves such rows out."""
    if not values:
        return [row for row in rows if not when(row)]
    return [{**row, **(values if when(row) else {})} for row in rows]


def in_split(name):
    return lambda row: row["split"] == name


def is_row(name):
    return lambda row: row["id"] == name


ANY = lambda _: True  # noqa: E731

CASES = {
    "whole": (ROWS, IMAGES, {}),
    "no test item": (changed(ROWS, in_split("test")), IMAGES, {"*": "there is no test item"}),
    "a label that is not listed": (changed(ROWS, is_row("val0"), label="cow"), IMAGES, {"*": "1 labels are not among"}),
    "a class that is not tested": (
        ROWS,
        {**IMAGES, "classes": {"cat": "a cat", "dog": "a dog", "cow": "a cow"}, "positive": None},
        {"*": "1 of 3 classes have no test item: cow"},
    ),
    "one class in test": (changed(ROWS, in_split("test"), label="cat"), IMAGES, {"*": "all 4 test items are of one"}),
    "a patient in two splits": (
        changed(ROWS, lambda row: row["id"] in {"test0", "train0"}, patient="same"),
        IMAGES,
        {"*": "1 patients are in train and in test"},
    ),
    "an id twice": (changed(ROWS, is_row("test0"), id="test1"), IMAGES, {"*": "1 ids occur more than once"}),
    "a missing image": (
        changed(ROWS, is_row("test0"), image="none.png"),
        IMAGES,
        {"*": "1 of 12 items cannot be used (the image file is missing: 1)"},
    ),
    "a subgroup without column": (
        ROWS,
        {**IMAGES, "subgroups": {"site": {"column": "hospital"}}},
        {"*": "no record has subgroups.site: 'hospital'"},
    ),
    "a subgroup that is no number": (
        ROWS,
        {**IMAGES, "subgroups": {"sex": {"bands": [1, 2]}}},
        {"*": "subgroups.sex: expected a number, got 'F'"},
    ),
    "no image column": (
        ROWS,
        {**IMAGES, "read": {"format": "table", "files": ["list.csv"]}},
        dict.fromkeys(("zero_shot", "retrieval"), "the test items have no image")
        | dict.fromkeys(("linear_probe", "vqa"), "the train items have no image"),
    ),
    "nothing to train on": (
        changed(ROWS, in_split("train")),
        IMAGES,
        dict.fromkeys(("linear_probe", "vqa"), "has no train split"),
    ),
    "one class in training": (
        changed(ROWS, in_split("train"), label="cat"),
        IMAGES,
        {"linear_probe": "all 6 items of the train split are of one class"},
    ),
    "one text for all": (
        changed(ROWS, in_split("test"), caption="a scan"),
        IMAGES,
        {"retrieval": "two different texts"},
    ),
    "a text of signs": (changed(ROWS, is_row("test1"), caption="..."), IMAGES, {"retrieval": "1 texts are empty"}),
    "an answer of signs": (changed(ROWS, is_row("test1"), answer="..."), IMAGES, {"vqa": "the answer to question"}),
    "one training answer": (
        changed(ROWS, in_split("train"), answer="cat"),
        IMAGES,
        {"vqa": "all training answers are 'cat'"},
    ),
    "an image in two splits": (
        changed(ROWS, is_row("test1"), image="train0.png"),
        {**IMAGES, "fields": {name: path for name, path in IMAGES["fields"].items() if name != "patient"}},
        {"vqa": "1 images are in both test and train"},
    ),
    "metrics of other tasks": (
        ROWS,
        {**IMAGES, "tasks": {name: {"primary": "harrell_c"} for name in IMAGES["tasks"]}},
        {name: f"{name} has no metric 'harrell_c'" for name in IMAGES["tasks"]},
    ),
    "a metric of questions that nobody asks": (
        ROWS,
        {**IMAGES, "tasks": {"vqa": {"primary": "vqa_closed"}}},
        {"vqa": "vqa has no metric 'vqa_closed'"},
    ),
    "several labels": (ROWS, IMAGES | LABELS, {}),
    "labels that all test images have": (
        changed(ROWS, in_split("test"), label="cat|dog"),
        IMAGES | LABELS,
        dict.fromkeys(("zero_shot", "linear_probe"), "every label is the same for all 4 items"),
    ),
    "labels that all training images have": (
        changed(ROWS, in_split("train"), label="cat|dog"),
        IMAGES | LABELS,
        {"linear_probe": "the train split: every label is the same for all 6 items"},
    ),
    "survival": (PATIENTS, TABLE, {}),
    "survival in folds": (PATIENTS, TABLE | FOLDS, {}),
    "a missing value": (changed(PATIENTS, is_row("q3"), x="?"), TABLE, {"*": "values are missing (x: 1): say missing"}),
    "a missing word": (changed(PATIENTS, is_row("q3"), grade=""), TABLE, {"*": "values are missing (grade: 1)"}),
    "a missing value that is imputed": (changed(PATIENTS, is_row("q3"), x="?"), {**TABLE, "missing": "impute"}, {}),
    "a missing value that is dropped": (changed(PATIENTS, is_row("q3"), grade=""), {**TABLE, "missing": "drop"}, {}),
    "a word for a number": (changed(PATIENTS, is_row("q3"), x="big"), TABLE, {"*": "x: expected a number, got 'big'"}),
    "an infinite number": (changed(PATIENTS, is_row("q3"), x="inf"), TABLE, {"*": "q3: x: expected a finite number"}),
    "no time": (changed(PATIENTS, is_row("q3"), days="soon"), TABLE, {"*": "time: expected a number, got 'soon'"}),
    "no event": (changed(PATIENTS, is_row("q3"), dead="maybe"), TABLE, {"*": "the event column says 'maybe'"}),
    "no training patient": (changed(PATIENTS, in_split("train")), TABLE, {"survival": "has no train split"}),
    "all censored": (changed(PATIENTS, ANY, dead="0"), TABLE, {"survival": "all 40 patients are censored"}),
    "all test patients censored": (
        changed(PATIENTS, in_split("test"), dead="0"),
        TABLE,
        {"survival": "the split: all 10 test patients are censored"},
    ),
    "too few events": (
        changed(PATIENTS, lambda row: row["id"] not in {"q1", "q4"}, dead="0"),
        TABLE | FOLDS,
        {"survival": "2 events among 40 patients are too few for 5 folds"},
    ),
    "nothing to compare": (
        changed(PATIENTS, in_split("test"), days="5", dead="1"),
        TABLE,
        {"survival": "no two of its 10 test patients can be compared"},
    ),
    "a patient whose rows disagree": (
        changed(PATIENTS, lambda row: row["id"] in {"q0", "q1"}, patient="same"),
        TABLE | FOLDS,
        {"survival": "the slides of patient 'same' disagree"},
    ),
    "a patient in two splits of survival, although allowed": (
        changed(PATIENTS, lambda row: row["id"] in {"q0", "q3"}, patient="same", days="4", dead="1"),
        {**TABLE, "allow": ["shared_patients"]},
        {"survival": "1 groups are in both test and train"},
    ),
    "features that never differ": (
        changed(PATIENTS, ANY, x="1", grade="a"),
        TABLE | FOLDS,
        {"survival": "all training patients have the same features"},
    ),
    "slides": (ROWS, SLIDES, {}),
    "slides without training": (changed(ROWS, in_split("train")), SLIDES, {"diagnosis": "has no train split"}),
    "slides of one class": (
        changed(ROWS, in_split("train"), label="dog"),
        SLIDES,
        {"diagnosis": "all 6 items of the train split are of one class"},
    ),
    "slides of several widths": (ROWS, SLIDES, {"diagnosis": "bags differ in the width of their features: [3, 4]"}),
    "slides of zeros": (ROWS, SLIDES, {"diagnosis": "train features: 1 of 6 rows are zero"}),
    "slides that are not finite": (ROWS, SLIDES, {"diagnosis": "bag 3 has values that are not finite"}),
}


def write(root, rows, case):
    """Write the table, and an image and a bag for each of its rows; a case may spoil the bag of ``train3``."""
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for place, row in enumerate(ROWS):
        (root / row["image"]).write_bytes(image_bytes(place, size=(70, 66)))
        bag = np.random.default_rng(place).normal(size=(3, 4)).astype(np.float32)
        if row["id"] == "train3":
            bag = {"slides of several widths": bag[:, :3], "slides of zeros": bag * 0}.get(case, bag)
            bag[0, 0] = np.nan if case == "slides that are not finite" else bag[0, 0]
        np.save(root / f"{row['id']}.npy", bag)


def checked(root, path):
    """Return the problems that ``check`` names, one a line; empty if there is none."""
    try:
        CliRunner().invoke(app, ["check", str(path), "--data-root", str(root)], catch_exceptions=False)
    except MMKDError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", CASES)
def test_check_refuses_what_run_refuses_and_says_the_same(case, model, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.suite.task_runs.SHOTS", ())
    monkeypatch.setattr("evaluate.suite.task_runs.FRACTIONS", ())
    network = Abmil(hidden=4, attention=4, epochs=1)
    for task in (survival_abmil, diagnose_by_abmil):
        monkeypatch.setattr(f"evaluate.suite.task_runs.{task.__name__}", partial(task, settings=network))
    rows, settings, expected = CASES[case]
    write(tmp_path, rows, case)
    path = write_entry(tmp_path, **settings)
    entry = read_entry(path)
    said = checked(tmp_path, path)
    suite = Suite(Settings(results=tmp_path / "r", data_root=tmp_path, resamples=20, batch_size=16))
    address = parse_address(f"local-dir:{model}")
    # Tasks that are not to be refused are run in the cases without any refusal.
    tasks = () if "*" in expected else tuple(expected)
    records = {one.task: suite.run(one)[0] for one in plan([address], [entry], tasks=tasks, data_root=tmp_path)}
    skipped = {task: record.skipped for task, record in records.items() if isinstance(record, SkippedRecord)}
    assert set(skipped) == (set(entry.tasks) if "*" in expected else set(expected))
    assert bool(said) == bool(expected)
    if "*" not in expected:
        assert set(re.findall(r"^drawn: (\w+): ", said, flags=re.MULTILINE)) == set(expected)
    for task, reason in skipped.items():
        message = expected.get("*") or expected[task]
        assert message in reason
        assert message in said
        if "*" not in expected:
            (line,) = re.findall(rf"^drawn: {task}: (.*)$", said, flags=re.MULTILINE)
            assert line == reason


def test_checking_all_datasets_asks_the_tasks_too(tmp_path):
    rows, settings, _ = CASES["all censored"]
    write(tmp_path, rows, "all censored")
    path = write_entry(tmp_path, **settings)
    done = CliRunner().invoke(app, ["check", "--all", "--datasets", str(path), "--data-root", str(tmp_path)])
    assert "drawn: fails: survival: all 40 patients are censored" in done.stdout
    assert done.exit_code != 0
