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
    monkeypatch.setenv("COLUMNS", "80")
    get_command(app)(shlex.split(line), prog_name="store", standalone_mode=False)
    assert capsys.readouterr().out.replace(f"{ROOT}/", "") == shown


NAMES = (
    "tiny_histopathology",
    "biomedclip_vit_base_patch16_224",
    "unimedclip",
    "q",
    "a.very-long.name_of_40_letters_is_not_cut",
)
COMMANDS = ("info", "ls", "coverage", "select", "provenance", "stats", "agreement", "row STORE 3")


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("line", COMMANDS)
def test_nothing_is_cut_or_broken_at_any_width(units, capsys, monkeypatch, width, line):
    sources = {name: f"hf-hub:someone/{name}/a/path/of/many/folders@{'0123456789' * 4}" for name in NAMES}
    for name, source in sources.items():
        spec = units.spec(name, notes={"licence": "CC-BY-NC-4.0", "source": source})
        units.register(name, notes={"licence": "CC-BY-NC-4.0", "source": source})
        units.commit(0, teacher=name, spec=spec)
    monkeypatch.setenv("COLUMNS", str(width))
    command = line.replace("STORE", str(units.path)) if "STORE" in line else f"{line} {units.path}"
    get_command(app)(shlex.split(command), prog_name="store", standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    words = {word for shown in lines for word in shown.split()}
    assert words >= set(NAMES)
    assert "…" not in "".join(lines)
    if line == "provenance":
        assert words >= set(sources.values())
    wide = [shown for shown in lines if len(shown) > width]
    # A line is wider only where it holds a single value that is.
    assert all(max(map(len, shown.split("  "))) > width - 50 for shown in wide), wide


def test_every_command_has_a_line_in_the_table():
    commands = set(get_command(app).commands)
    assert len(EXAMPLES) == 10
    assert {name for name in commands if not re.search(rf"^\| `{name} ", TEXT, re.MULTILINE)} == set()
