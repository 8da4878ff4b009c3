"""The commands of docs/store.md that look into the store of the tests print what the document shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from store.cli.program import app
from store.corpus.section import Corpus
from store.format.arrays import shard_key
from store.format.records import Status, receipt_key
from store.index.create import index_corpus
from store.io.location import locate
from tests.store.conftest import Units
from tests.store.damage import flip

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/store.md").read_text()
EXAMPLES = re.findall(r"^```\n\$ python -m store (\S+ .*)\n((?:.|\n)*?)^```$", TEXT, re.MULTILINE)
TAKEN = re.compile(r"lost\+found/\w+-\w+")
"""A repair names its folder by the time and a token."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder in which the examples run: the stores of the tests, a damaged and an incomplete copy of one."""
    shutil.copytree(ROOT / "tests/store/fixtures", tmp_path / "tests/store/fixtures")
    for copy in ("damaged", "incomplete"):
        shutil.copytree(tmp_path / "tests/store/fixtures/small/store", tmp_path / copy / "store")
    damaged = locate(tmp_path / "damaged/store")
    flip(damaged, shard_key("alpha", "image", 0))
    damaged.delete([shard_key("beta", "text", 2)])
    (tmp_path / "incomplete/store" / receipt_key("beta", 2)).unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(line, place, capsys, monkeypatch, *, width):
    monkeypatch.setenv("COLUMNS", str(width))
    get_command(app)(shlex.split(line), prog_name="store", standalone_mode=False)
    return TAKEN.sub("lost+found/RUN", capsys.readouterr().out.replace(f"{place}/", ""))


@pytest.mark.parametrize(("line", "shown"), EXAMPLES, ids=[line.split()[0] for line, _ in EXAMPLES])
def test_an_example_prints_what_the_document_shows(line, shown, place, capsys, monkeypatch):
    assert printed(line, place, capsys, monkeypatch, width=80) == shown


@pytest.mark.parametrize(("line", "shown"), EXAMPLES, ids=[line.split()[0] for line, _ in EXAMPLES])
def test_an_example_says_the_same_in_more_columns(line, shown, place, capsys, monkeypatch):
    assert {*printed(line, place, capsys, monkeypatch, width=160).split()} == {*shown.split()}


NAMES = (
    "tiny_histopathology",
    "biomedclip_vit_base_patch16_224",
    "unimedclip",
    "q",
    "a.very-long.name_of_40_letters_is_not_cut",
)
COMMANDS = (
    *("info", "ls", "coverage", "select", "provenance", "stats", "agreement", "row STORE 3", "verify", "quarantine"),
    "diff STORE STORE",
    "export STORE --out OUT --format parquet",
)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("line", COMMANDS)
def test_nothing_is_cut_or_broken_at_any_width(units, tmp_path, capsys, monkeypatch, width, line):
    sources = {name: f"hf-hub:someone/{name}/a/path/of/many/folders@{'0123456789' * 4}" for name in NAMES}
    for name, source in sources.items():
        spec = units.spec(name, notes={"licence": "CC-BY-NC-4.0", "source": source})
        units.register(name, notes={"licence": "CC-BY-NC-4.0", "source": source})
        features = units.features(0)
        features.status[1], features.reasons[1] = Status.KILLER_ROW, "the process died"
        units.commit(0, teacher=name, spec=spec, features=features)
    monkeypatch.setenv("COLUMNS", str(width))
    command = line if "STORE" in line else f"{line} STORE"
    command = command.replace("STORE", str(units.path)).replace("OUT", str(tmp_path / "out"))
    get_command(app)(shlex.split(command), prog_name="store", standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    words = {word.rstrip(":,") for shown in lines for word in shown.split()}
    assert words >= set(NAMES)
    assert "…" not in "".join(lines)
    if line == "provenance":
        assert words >= set(sources.values())
    wide = [shown for shown in lines if len(shown) > width]
    # A line is wider only where it holds a single value that is.
    assert all(max(map(len, shown.split("  "))) > width - 50 for shown in wide), wide


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("line", ["coverage", "select", "neighbors STORE 1 --teacher alpha"])
def test_long_modalities_and_captions_are_not_cut(tmp_path, write_tar, as_bytes, capsys, monkeypatch, width, line):
    modalities = [f"modality_{number}_{'of_a_long_name_' * 5}" for number in range(4)]
    members = []
    for number in range(8):
        record = {"modality": modalities[number % 4]}
        members += [(f"k{number}.png", as_bytes(Image.new("L", (8, 8), 9 * number)))]
        members += [(f"k{number}.txt", b"words " * 40), (f"k{number}.json", json.dumps(record).encode())]
    corpus = Corpus(files=[str(write_tar("corpus/000.tar", members))])
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=8, chunk_rows=2)
    units = Units(tmp_path / "store", info)
    units.register()
    units.commit(0)
    monkeypatch.setenv("COLUMNS", str(width))
    command = line.replace("STORE", str(units.path)) if "STORE" in line else f"{line} {units.path}"
    get_command(app)(shlex.split(command), prog_name="store", standalone_mode=False)
    words = {word.rstrip(":") for word in capsys.readouterr().out.split()}
    assert words >= set(modalities)


def test_every_command_has_a_line_in_the_table():
    commands = set(get_command(app).commands)
    shown = {line.split()[0] for line, _ in EXAMPLES}
    assert commands - shown == {"schema"}
    assert {name for name in commands if not re.search(rf"^\| `{name} ", TEXT, re.MULTILINE)} == set()
