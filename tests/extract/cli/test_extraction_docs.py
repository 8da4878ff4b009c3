"""docs/extraction.md knows every command, and the names of the JSON that they print."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from typer.main import get_command

from extract.cli.program import app
from extract.estimate.estimate import Estimate, Size
from extract.estimate.rates import Rates, TeacherRate
from extract.monitor.drift import SideDrift, TeacherDrift
from extract.monitor.status import Progress, StoreStatus
from store.check.quarantine import TRANSIENT
from store.inspect.stage_report import ADVICE, StageReport

FOLDER = Path(__file__).parents[3] / "docs"
TEXT = (FOLDER / "extraction.md").read_text()
COMMANDS = ("plan", "run", "status", "stop", "retry", "drift", "report", "append")


def section(name):
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_line_in_the_table_and_a_chapter_that_names_its_options(name):
    assert re.search(rf"^\| `{name} ", TEXT, re.MULTILINE)
    options = {option for parameter in get_command(app).commands[name].params for option in parameter.opts}
    shared = {"--config", "--set", "--pipeline", "--json", "--help", "--workers", "--store", "STORE", "store"}
    said = section(name) + TEXT[: TEXT.index("## ")]
    assert {option for option in options - shared if option.startswith("--") and option not in said} <= {
        "--corpus-root"
    }


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("plan", (Estimate, Size, Rates, TeacherRate)),
        ("status", (StoreStatus,)),
        ("drift", (TeacherDrift, SideDrift)),
        ("report", (StageReport,)),
    ],
)
def test_every_field_of_the_json_is_named(name, records):
    fields = {field.name for record in records for field in dataclasses.fields(record)} - {"teacher", "progress"}
    assert {field for field in fields if f"`{field}`" not in section(name)} == set()


def test_verdicts_and_statuses_are_those_of_the_program():
    assert re.findall(r"^\| (\w+) \|", section("report"), re.MULTILINE)[1:] == [*ADVICE]
    for status in TRANSIENT:
        assert f"`{status.name.lower()}`" in section("retry")
    assert {"run_id", "state", "age_s"} <= {field.name for field in dataclasses.fields(Progress)}
