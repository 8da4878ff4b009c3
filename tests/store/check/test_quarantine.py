"""Rows without features, from the receipts."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from store.check.quarantine import count_reasons, quarantined
from store.format.records import Status
from store.read.reader import FeatureStore

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bad(units):
    """Rows 1, 2 and 6 are bad under alpha, row 7 is not applicable; row 1 is bad under beta."""
    units.register()
    units.register("beta")
    first, second = units.features(0), units.features(1)
    first.status[[1, 2]] = Status.BAD_IMAGE
    first.reasons |= {1: "cut short", 2: "cut short"}
    second.status[2], second.status[3] = Status.BAD_TEXT, Status.NOT_APPLICABLE
    second.reasons[2] = "no caption"
    units.commit(1, features=second)
    units.commit(0, features=first)
    first.status[2] = Status.OK
    units.commit(0, teacher="beta", features=first)
    return units


def test_bad_rows_come_by_teacher_in_order_with_their_files(bad):
    rows = list(quarantined(FeatureStore(bad.location)))
    assert [(row.teacher, row.row, row.key, row.status, row.reason, row.uri) for row in rows] == [
        ("alpha", 1, "p01", "bad_image", "cut short", "000.tar"),
        ("alpha", 2, "p02", "bad_image", "cut short", "000.tar"),
        ("alpha", 6, "p06", "bad_text", "no caption", "001.tar"),
        ("beta", 1, "p01", "bad_image", "cut short", "000.tar"),
    ]
    assert [row.teacher for row in quarantined(FeatureStore(bad.location), teacher="beta")] == ["beta"]
    assert count_reasons(rows)[0] == {"teacher": "alpha", "status": "bad_image", "reason": "cut short", "rows": 2}
    assert sum(count["rows"] for count in count_reasons(rows)) == 4


def run(*arguments):
    command = [sys.executable, "-m", "store", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.end_to_end
def test_the_command_prints_writes_csv_and_gives_json(bad, tmp_path):
    file = tmp_path / "bad.csv"
    done = run("quarantine", bad.path, "--csv", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 p06 alpha bad_text: no caption (001.tar)" in done.stdout
    as_json = json.loads(run("quarantine", bad.path, "--json").stdout)
    with file.open(newline="") as lines:
        written = list(csv.DictReader(lines))
    assert written == [{name: str(value) for name, value in row.items()} for row in as_json["rows"]]
    assert as_json["counts"][0]["rows"] == 2
    unknown = run("quarantine", bad.path, "--teacher", "gamma")
    assert unknown.returncode == 1
    assert "it has alpha, beta" in unknown.stderr


@pytest.mark.end_to_end
def test_a_store_without_bad_rows_says_so(units):
    units.register()
    units.commit(0)
    assert run("quarantine", units.path).stdout == "no row is quarantined\n"
