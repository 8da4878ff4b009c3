from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from evaluate.cli.demo import QUICK, SECONDS, _note_seconds, _spread, _stage, _summary
from evaluate.report.table import results_table
from store.config.yaml_tree import parse
from store.errors import MMKDError
from tests.evaluate.synthetic import zero_shot
from tests.test_documents import blocks

ROOT = Path(__file__).parents[3]

MODALITIES = ("xray", "ct", "mri", "ultrasound", "fundus", "oct", "histopathology", "dermatology", "endoscopy")


def model(role, accuracy):
    return {"role": role, "macro_accuracy": accuracy, "by_modality": dict.fromkeys(MODALITIES, accuracy)}


def printed(models):
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(models, title="t"))
    return out.getvalue()


def test_the_table_of_nine_modalities_fits_80_columns_without_cutting_a_number():
    text = printed({"tiny_histopathology": model("teacher", 0.41), "distilled": model("student", 0.63)})
    assert "…" not in text
    assert text.count("0.63") == len(MODALITIES) + 1
    assert max(map(len, text.splitlines())) <= 80


def test_teachers_stand_above_the_oracle_and_students_below_task_only():
    text = printed(
        {
            "distilled": model("student", 0.6),
            "oracle": model("oracle", 0.9),
            "alone": model("task_only", 0.5),
            "tiny": model("teacher", 0.4),
        }
    )
    places = [text.index(name) for name in ("tiny", "oracle", "alone", "distilled")]
    assert places == sorted(places)


def test_names_are_shared_out_over_processes_and_none_is_lost(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    commands = _spread(["train", "pretrain"], "--run", ["a", "b", "c"])
    assert commands == [[["train", "pretrain", "--run", "a", "--run", "c"]], [["train", "pretrain", "--run", "b"]]]


def test_a_failing_command_stops_the_demo_and_is_named(tmp_path):
    missing = str(tmp_path / "no-store")
    with pytest.raises(MMKDError, match=r"python -m store info .*no-store ended with exit code 1"):
        _stage("look", [["store", "info", missing]], out=tmp_path)


def test_the_last_lines_are_the_best_teacher_the_students_and_the_oracle_with_intervals():
    roles = {"weak": "teacher", "good": "teacher", "alone": "task_only", "taught": "student", "oracle": "oracle"}
    records = {}
    for skill, (name, role) in enumerate(roles.items()):
        record, _ = zero_shot(name, "lungs", skill=skill)
        records[name] = record.model_copy(update={"model": record.model.model_copy(update={"role": role})})
    lines = _summary(list(records.values()))
    shown = {"best teacher": "good", "task-only": "alone", "distilled": "taught", "oracle": "oracle"}
    assert len(lines) == 4
    for line, (title, name) in zip(lines, shown.items(), strict=True):
        found = records[name].metrics["auroc"]
        assert line.split("  ")[0] == title
        assert line.endswith(f"{name:<6}  {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
        assert len(line) <= 80


def test_seconds_of_interrupted_runs_add_up_and_those_of_runs_with_nothing_to_do_do_not(tmp_path):
    told = []
    for seconds, done in ((20.0, False), (15.5, True), (3.0, True), (60.0, True)):
        _note_seconds(tmp_path, "teachers", seconds, done=done)
        told.append(json.loads((tmp_path / SECONDS).read_text())["teachers"]["seconds"])
    assert told == [20.0, 35.5, 35.5, 60.0]


@pytest.fixture
def tiny(tmp_path):
    """The file of a quick demo that is smaller still, in a folder of its own."""
    text = (ROOT / "pipelines.yaml").read_text().replace("runs/quick", str(tmp_path / "runs"))
    pipeline = parse(text).data[QUICK]
    for corpus in pipeline["corpora"].values():
        if "phantom" in corpus:
            corpus["phantom"]["rows"] = 40
    for run in (*pipeline["train"]["pretrain"].values(), *pipeline["train"]["students"].values()):
        run["optimization"] |= {"steps": 2, "batch_size": 16, "warmup_steps": 0}
    pipeline["train"]["project"]["steps"] = 2
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({QUICK: pipeline}))
    return tmp_path


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_whole_demo_ends_with_a_page_and_a_command_that_works_and_makes_the_page_again(tiny):
    def run(*arguments):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            arguments, cwd=ROOT, capture_output=True, text=True, errors="replace", env=environment, check=False
        )

    command = [sys.executable, "-m", "evaluate", "demo", "--pipeline", QUICK, "--config", str(tiny / "pipelines.yaml")]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("Pipeline quick: 2 teachers of 2 to 2 steps")
    *_, teacher, alone, taught, oracle, seconds, report, following = first.stdout.splitlines()
    starts = [line.split()[0] for line in (teacher, alone, taught, oracle, seconds)]
    assert starts == ["best", "task-only", "distilled", "oracle", "seconds:"]
    page = tiny / "runs/report.html"
    assert report == f"report: {page}"
    html = page.read_text()
    assert "This is the quick demo" in html
    for text in ("The same images, by every model", "The same searches, by every model", "Where the time went"):
        assert text in html
    assert all(line.split("  ")[-1] in html for line in (teacher, alone, taught, oracle))
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    page.unlink()
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-7:-3] == [teacher, alone, taught, oracle]
    assert page.is_file()
    done = run("bash", "-c", following.removeprefix("next: "))
    assert done.returncode == 0, done.stderr
    for code in blocks("README.md", "python"):
        done = run(sys.executable, "-c", code.replace("runs/demo", str(tiny / "runs")))
        assert done.returncode == 0, done.stderr
