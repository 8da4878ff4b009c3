"""The page of the benchmarks from records, what is run again, and the refusal of a busy machine."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from . import __main__ as command
from .listed import LISTED, Benchmark
from .page import BUSY, page
from .records import QUIET_CORES, QUIET_LOAD, ROOT, Record, read_record, require_quiet
from .records import run as run_benchmark

FIRST = Benchmark(
    name="first", title="The first, alone", about="It is read so.", module="calendar", arguments=("2026",)
)
SECOND = Benchmark(name="second", title="Second", about="And so.", module="calendar", arguments=("2027",), peers=True)
RECORD = Record(
    command="python -m calendar 2026",
    date="2026-12-01 05:00",
    commit="abc1234",
    machine="2 cores",
    seconds=61.4,
    load=(0.2, 1.4),
    others=0.03,
    output="| a |\n| --- |\n| 1 |",
    peers=True,
)


def test_a_page_has_contents_and_of_each_benchmark_how_it_was_run_and_what_it_printed():
    made = page([FIRST, SECOND], {"first": RECORD, "second": RECORD}, {})
    contents, *sections = made.split("\n## ")
    assert "- [The first, alone](#the-first-alone)\n- [Second](#second)\n" in contents
    first = sections[0]
    assert first.startswith("The first, alone\n\nIt is read so.\n")
    assert "```\npython -m calendar 2026\n```" in first
    assert "2026-12-01 05:00 UTC, commit abc1234, 61 s, load 0.2 and 1.4, others 0.03 cores; 2 cores." in first
    assert first.endswith("\n| a |\n| --- |\n| 1 |\n")
    assert "exit code" not in made
    assert "Peers were not measured" not in made
    assert BUSY not in made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_busy": True}, BUSY),
        ({"code": 3}, "**It ended with exit code 3**"),
        ({"peers": False}, "Peers were not measured (no `PEERS=`)."),
    ],
)
def test_a_page_says_what_is_wrong_with_a_run(changes, said):
    assert said in page([SECOND], {"second": dataclasses.replace(RECORD, **changes)}, {})


def test_a_page_says_why_a_benchmark_is_left_out():
    made = page([FIRST], {}, {"first": "`runs/demo` is not there."})
    assert made.endswith("## The first, alone\n\nIt is read so.\n\nLeft out: `runs/demo` is not there.\n")


def test_what_was_not_measured_again_keeps_the_run_that_the_page_shows():
    made = page([FIRST, SECOND], {"first": RECORD, "second": RECORD}, {})
    assert page([FIRST, SECOND], {"first": RECORD}, {"second": "it was not run."}, before=made) == made
    newer = dataclasses.replace(RECORD, output="| b |")
    changed = page([SECOND, FIRST], {"first": newer}, {}, before=made)
    assert changed.endswith("\n| b |\n")
    assert changed.count("| a |") == 1


@pytest.mark.parametrize(("load", "cores"), [(QUIET_LOAD + 0.1, 0.0), (0.0, QUIET_CORES + 0.1)])
def test_a_busy_machine_is_refused(load, cores):
    with pytest.raises(SystemExit, match=r"the machine is busy: load .* cores at work.*--busy"):
        require_quiet(load=load, cores=cores)


def test_a_quiet_machine_is_not_refused():
    require_quiet(load=QUIET_LOAD, cores=QUIET_CORES)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return what runs the command with two benchmarks in an empty folder."""
    monkeypatch.setattr(command, "LISTED", (FIRST, SECOND))
    monkeypatch.setattr(command, "cores_taken", lambda: 2.0)
    places = ["--out", str(tmp_path), "--page", str(tmp_path / "page.md")]
    return lambda *arguments: command.main([*places, *arguments])


def test_what_was_measured_is_kept_until_it_is_asked_for_again(run, tmp_path):
    assert run("--busy") == 0
    record = read_record(tmp_path / "first.json")
    assert record.command == "python -m calendar 2026"
    assert record.is_busy
    assert "January" in record.output
    assert "July" in (tmp_path / "page.md").read_text()
    marked = dataclasses.replace(record, output="kept")
    marked.write(tmp_path / "first.json")
    assert run("--busy") == 0
    assert read_record(tmp_path / "first.json") == marked
    assert "\nkept\n" in (tmp_path / "page.md").read_text()
    assert run("--busy", "--again", "--only", "first") == 0
    assert "January" in read_record(tmp_path / "first.json").output


def test_nothing_is_measured_on_a_busy_machine(run, tmp_path):
    with pytest.raises(SystemExit, match="busy"):
        run()
    assert not [*tmp_path.iterdir()]


def test_a_benchmark_that_fails_is_told(run, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(command, "LISTED", (dataclasses.replace(FIRST, arguments=("--no-such-option",)),))
    assert run("--busy") == 1
    assert "first ended with 2; see" in capfd.readouterr().err
    assert "exit code 2" in (tmp_path / "page.md").read_text()


def test_what_a_benchmark_needs_is_named(tmp_path):
    needy = dataclasses.replace(FIRST, needs={"runs/no-such-run": "`make demo` makes it"})
    assert command.lacking(needy) == "`runs/no-such-run` is not there: `make demo` makes it."
    assert command.lacking(FIRST) == ""


def test_names_and_titles_are_unique():
    assert len({one.name for one in LISTED}) == len({one.title for one in LISTED}) == len(LISTED)


def test_the_page_has_a_section_for_each_benchmark():
    headings = re.findall(r"^## (.*)$", Path(ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE)
    assert headings == [one.title for one in LISTED]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["store-speed", "object-storage", "checksums", "index-memory", "index-speed", "planning", "tokens"]
)
def test_a_benchmark_runs_in_tiny_sizes(name, tmp_path):
    (benchmark,) = (one for one in LISTED if one.name == name)
    record = run_benchmark(benchmark, tmp_path, is_quick=True, is_busy=True, peers=None)
    assert record.code == 0, (tmp_path / f"{name}.log").read_text()
    assert re.search(r"^\| .* \|\n\|( ?-+ ?\|)+\n\| .*\d", record.output, re.MULTILINE), record.output


@pytest.mark.parametrize("module", [one.module for one in LISTED])
def test_a_benchmark_can_be_imported(module):
    assert callable(importlib.import_module(module).main)
