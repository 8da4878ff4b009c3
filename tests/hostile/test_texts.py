"""Whatever strangers wrote is shown as text: by every view of a store and of results, in every file of a report."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from extract.monitor.status import read_progress
from store.console import cell
from store.errors import plain
from store.io.location import locate
from tests.evaluate.synthetic import write_all
from tests.store.make_fixture import FIXTURE

from .texts import EVIL, NAME, OBEYED, effects, evil_store, said, said_on_a_terminal

VIEWS = [
    *([name] for name in ("info", "ls", "verify", "quarantine", "coverage", "provenance", "stats", "agreement")),
    ["verify", "--deep"],
    ["row", "1"],
    ["neighbors", "2", "--teacher", "alpha"],
    ["diff", "OTHER"],
    ["status"],
    ["report"],
]
"""Commands of `python -m store`, and two of `python -m extract`."""


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A store in which every text is a stranger's."""
    return evil_store(tmp_path_factory.mktemp("evil"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results in which texts are a stranger's."""
    folder = write_all(tmp_path_factory.mktemp("results"))
    for path in folder.rglob("*.json"):
        record = json.loads(path.read_bytes())
        if record["model"]["name"] == "pmc_clip":
            record["model"]["address"] = EVIL
        record["dataset"] |= {"title": f"{EVIL} of {record['dataset']['name']}", "licence": EVIL, "modality": EVIL}
        if "skipped" in record:
            record["skipped"] = EVIL
        else:
            details = record["details"]
            details["classes"] = [f"{EVIL}{name}" for name in details["classes"]]
            for example in details["examples"]:
                example["id"] = EVIL
        path.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_views_of_a_store_show_texts_and_json_stays_json(evil, view):
    program = "extract" if view[0] in {"status", "report"} else "store"
    command = [program, view[0], str(evil), *(str(evil) if part == "OTHER" else part for part in view[1:])]
    code, out, err = said(*command)
    assert code in (0, 1)
    assert b"Traceback" not in err
    assert effects(out + err) == []
    code, out, err = said(*command, "--json")
    assert effects(err) == []
    if out:
        json.loads(out)
        assert out.isascii()


@pytest.mark.parametrize("view", ["info", "row", "coverage"])
def test_views_on_a_terminal_show_texts(evil, view):
    written = said_on_a_terminal("store", view, str(evil), *(["1"] if view == "row" else []))
    assert b"\\x1b[2Jgone\\x1b[8mhidden\\n# heading" in written.replace(b"\n", b"")
    assert effects(written) == []


@pytest.mark.parametrize("command", ["store info", "extract status", "train export", "evaluate leaderboard --results"])
def test_names_of_files_in_messages_are_texts(tmp_path, command):
    program, name, *option = command.split()
    (tmp_path / NAME).write_text("")
    more = ["--out", str(tmp_path / "out")] if program == "train" else []
    code, out, err = said(program, name, *option, str(tmp_path / NAME), *more)
    assert code == 1
    assert effects(out + err) == []
    assert b"\\x1b[2J" in err


def test_a_configuration_is_quoted_as_text(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps({"mine": {"store": {"path": "s", f"key{EVIL}": 1}, "select": EVIL, f"k{EVIL}": EVIL}}))
    code, out, err = said("train", "distill", "--pipeline", "mine", "--config", str(path))
    assert (code, effects(out + err)) == (1, [])
    code, out, err = said("train", "distill", "--pipeline", EVIL.replace("\0", ""), "--config", str(path))
    assert (code, effects(out + err)) == (1, [])


@pytest.mark.parametrize("view", [["compare", "mmkd", "pmc_clip"], ["compare"], ["claim", "mmkd"]], ids=" ".join)
def test_views_of_results_show_texts(results, view):
    code, out, err = said("evaluate", *view, "--results", str(results))
    assert (code, effects(out + err)) == (0, [])
    code, out, _ = said("evaluate", *view, "--results", str(results), "--json")
    assert json.loads(out)


def test_files_of_results_have_texts_and_no_formula_heading_or_script(results, tmp_path):
    for command in (["leaderboard"], ["report", "--out", str(tmp_path / "report.html")]):
        code, _, err = said("evaluate", *command, "--results", str(results))
        assert (code, effects(err)) == (0, [])
    code, card, _ = said("evaluate", "card", "mmkd", "--results", str(results))
    assert code == 0
    page = (tmp_path / "report.html").read_bytes()
    board = (results / "leaderboard.md").read_bytes()
    table = (results / "leaderboard.csv").read_bytes()
    assert json.loads((results / "leaderboard.json").read_bytes())
    for written in (page, board, table, card):
        assert b"gone" in written
        assert not OBEYED.search(written)
    assert effects(board + card) == []
    for written in (page, board, card):
        assert b"<script>alert" not in written
    cells = [value for row in csv.reader(table.decode().splitlines()) for value in row]
    assert any("A1" in value for value in cells)
    assert not [value for value in cells if re.match(r"[=+@\t\r]", value)]


def test_the_page_about_a_store_has_texts(evil, tmp_path):
    code, out, err = said("store", "report", str(evil), "--out", str(tmp_path / "page.html"))
    assert code == 0, err
    assert effects(out + err + (tmp_path / "page.html").read_bytes()) == []


def test_the_name_of_a_file_in_an_error_of_the_system_is_a_text(tmp_path, evil):
    place = str(tmp_path / "no\x1b[1A\x1b[2K\nhint: rm -rf ~" / "rows.csv")
    written = said_on_a_terminal("store", "quarantine", str(evil), "--csv", place)
    assert b"No such file or directory" in written
    assert b"\x1b[2K" not in written
    assert b"\nhint: rm" not in written


def test_files_of_a_store_have_texts_and_no_formula(evil, tmp_path):
    for name in ("quarantine", "agreement"):
        more = ["--teacher", "alpha", "--teacher", "beta"] if name == "agreement" else []
        said("store", name, str(evil), *more, "--csv", str(tmp_path / f"{name}.csv"))
    found = [value for path in tmp_path.glob("*.csv") for row in csv.reader(path.open(newline="")) for value in row]
    assert any("A1" in value for value in found)
    assert not [value for value in found if re.match(r"[=+@\t\r]", value) or effects(value.encode())]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\x1b[2J", "a\x9bb", "\udc80"]
)
def test_a_cell_of_a_table_is_a_text(text):
    shown = cell(text)
    assert not re.match(r"[=+@-]|\s", shown)
    shown.encode()
    assert effects(shown.encode()) == []
    assert (cell(-1.5), cell(None), cell("a-b, Größe\u00a0µm")) == (-1.5, None, "a-b, Größe\u00a0µm")


def test_what_is_written_into_files_keeps_letters_of_all_languages():
    for text in ("Größe\u00a03 µm", "क्‍ष", "👩\u200d⚕️", "日本語\u3000"):
        assert plain(text) == text
    assert plain("a\u202eb\u2066c\udc80") == r"a\u202eb\u2066c\udc80"


@pytest.mark.parametrize(
    "told",
    [
        {"done": "x", "found": [1]},
        {"rows_per_s": {"alpha": "fast"}},
        {"seconds_left": float("inf")},
        {"actors": 3},
        {"bad_rows": [1]},
        {"updated": "2026-01-01"},
        {"updated": EVIL},
    ],
)
def test_progress_of_another_kind_is_told_and_passed_over(tmp_path, told):
    shutil.copytree(FIXTURE / "store", tmp_path / "store")
    path = tmp_path / "store/runs/a/progress.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"state": "running", "updated": "2026-01-01T00:00:00+00:00"} | told))
    assert read_progress(locate(tmp_path / "store"), "a") is None
    path.write_text(json.dumps({"state": "running", "updated": "2026-01-01T00:00:00+00:00", "done": 3}))
    assert read_progress(locate(tmp_path / "store"), "a").content["done"] == 3


FORGETFUL = """
import sys, typer
from rich.console import Console
from store.console import main
app = typer.Typer()
@app.command()
def go(text: str) -> None:
    evil = text.encode().decode("unicode_escape")
    sys.stdout.write(f"{evil}\\udc80\\n")
    sys.stderr.write(f"{evil}\\n")
    Console().print("[bold]styled[/]")
main(app, program="forgetful")
"""


def test_a_text_that_a_program_forgot_to_write_out_is_not_obeyed(tmp_path):
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    evil = r"\x1b]52;c;aGk=\x07\x9b31m\u202e\x08\r\x00\x1b[2Jtext"
    shown = rb"\x1b]52;c;aGk=\x07\x9b31m\u202e\x08\r\x00\x1b[2Jtext"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{Path.cwd()}:{tmp_path}")
        written = said_on_a_terminal("forgetful", evil)
    assert shown in written
    assert rb"\udc80" in written
    assert b"\x1b[1mstyled\x1b[0m" in written
    # A progress bar on stderr moves the cursor, so that two of these are meant there.
    meant = written.replace(b"\r\x00", b"").replace(b"\x1b[2J", b"")
    assert [one for one in effects(meant) if one != repr(b"\r")] == []
