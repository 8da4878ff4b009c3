"""docs/evaluation.md: its commands parse, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from evaluate.cli.program import app
from evaluate.models.addresses import FORMS, parse_address
from evaluate.results.record import ResultRecord, SkippedRecord
from evaluate.suite.overlap import NEAR_BITS

FOLDER = Path(__file__).parents[3] / "docs"
TEXT = (FOLDER / "evaluation.md").read_text()
COMMANDS = get_command(app).commands
SHOWN = [
    line.replace("\\\n", " ")
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)
]


@pytest.mark.parametrize("line", SHOWN, ids=[line[:60] for line in SHOWN])
def test_a_shown_command_parses(line):
    arguments = shlex.split(line)[1:]
    context = COMMANDS[arguments[2]].make_context(arguments[2], arguments[3:])
    models = context.params.get("model") or []
    parsed = [parse_address(address) for address in ([models] if isinstance(models, str) else models)]
    assert len({address.name for address in parsed}) == len(parsed)


def test_every_command_is_in_the_table_but_the_demo():
    table = TEXT[: TEXT.index("## Models")]
    assert {name for name in COMMANDS if f"`{name}`" not in table} == {"demo"}
    assert {line.split()[3] for line in SHOWN} == set(COMMANDS)


def test_every_option_of_run_is_named():
    named = set(re.findall(r"`(--[\w-]+)`", TEXT))
    options = {option for parameter in COMMANDS["run"].params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= named | {"--help"}


def test_every_kind_of_address_and_every_key_of_a_record_is_named():
    for form in FORMS.values():
        assert f"`{form.partition(',')[0]}`" in TEXT
    keys = {*ResultRecord.model_fields, *SkippedRecord.model_fields}
    assert {key for key in keys if f"`{key}`" not in TEXT} == set()


def test_numbers_of_the_text_are_those_of_the_program():
    assert f"at most {NEAR_BITS} of 64 bits" in TEXT
