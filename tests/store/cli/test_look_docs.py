"""The commands of docs/store.md that look into the store of the tests print what the document shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from store.cli.program import app

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/store.md").read_text()
EXAMPLES = re.findall(
    r"^```\n\$ python -m store (\S+ tests/store/fixtures/\S+.*)\n((?:.|\n)*?)^```$", TEXT, re.MULTILINE
)


@pytest.mark.parametrize(("line", "shown"), EXAMPLES, ids=[line.split()[0] for line, _ in EXAMPLES])
def test_an_example_prints_what_the_document_shows(line, shown, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    get_command(app)(shlex.split(line), prog_name="store", standalone_mode=False)
    assert capsys.readouterr().out == shown


def test_every_command_has_a_line_in_the_table():
    commands = set(get_command(app).commands)
    assert len(EXAMPLES) == 7
    assert {name for name in commands if not re.search(rf"^\| `{name} ", TEXT, re.MULTILINE)} == set()
