from __future__ import annotations

import io

import pytest
from rich.console import Console

from evaluate.cli.demo import _spread, _stage
from evaluate.report.table import results_table
from store.errors import MMKDError

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
