"""Progress of a loop: a bar on a terminal, a line elsewhere, reports to a process that shows several."""

from __future__ import annotations

import json
import logging
import os
import pty
import sys
import textwrap
from pathlib import Path

import pytest

from store import console
from store.console import progress
from tests.store.test_console import start
from tests.terminal import on_a_terminal, screen

REPOSITORY = Path(__file__).parents[2]


def test_without_a_terminal_progress_is_a_log_line_per_interval(monkeypatch, caplog):
    monkeypatch.setattr(console, "FIRST_S", 0.0)
    monkeypatch.setattr(console, "PROGRESS_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, logger="store.console")
    with progress(4, label="extract", noun="units") as advance:
        advance(1)
        advance(2)
    assert [line.startswith(("extract: 1 of 4 units", "extract: 3 of 4 units")) for line in caplog.messages] == [
        True
    ] * 2
    assert caplog.messages[1].endswith(" s left")


def test_the_first_line_comes_before_the_interval_and_only_the_first(monkeypatch, caplog):
    monkeypatch.setattr(console, "FIRST_S", 0.0)
    caplog.set_level(logging.INFO, logger="store.console")
    with progress(4, label="extract", noun="units") as advance:
        advance(1)
        advance(2)
    assert [line[:12] for line in caplog.messages] == ["extract: 1 o"]


def test_within_the_interval_progress_is_silent(caplog):
    caplog.set_level(logging.INFO, logger="store.console")
    with progress(4, label="extract", noun="units") as advance:
        advance(4)
    assert caplog.messages == []


@pytest.mark.end_to_end
def test_on_a_terminal_progress_is_a_bar_and_data_still_goes_to_stdout(tmp_path):
    terminal, other_end = pty.openpty()
    body = (
        "with progress(3, label='extract', noun='units') as advance:\n    advance(2)\n    print('data')\n    advance(1)"
    )
    program = start(tmp_path, body, stderr=other_end)
    os.close(other_end)
    out, _ = program.communicate()
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert (program.returncode, out) == (0, "data\n")
    assert "3/3" in shown
    assert "data" not in shown


def test_loops_inside_each_other_share_one_display_on_a_terminal():
    loops = """
        from store.console import progress
        with progress(2, label="train", noun="steps") as advance:
            for _ in range(2):
                with progress(9, label="validate", noun="pairs") as inner:
                    inner(9)
                advance(1)
    """
    code, _, written = on_a_terminal([sys.executable, "-c", textwrap.dedent(loops)], cwd=REPOSITORY)
    assert code == 0, written
    assert [line.split()[0] for line in screen(written)] == ["train"]
    assert "2/2 steps" in screen(written)[0]


PATIENT = """
import logging, threading, typer
from store import console
console.PATIENCE_S = 0.1
app = typer.Typer()
@app.command()
def work(said: str = "", steps: int = 0):
    print(said, end="", flush=True)
    [thread.join() for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    if steps:
        with console.progress(steps, label="work", noun="steps", done=1) as advance:
            for step in range(steps - 1):
                logging.getLogger("store").info("line %d", step)
                advance(1)
console.main(app, program="work")
"""


def test_a_terminal_is_told_why_it_shows_nothing_yet():
    code, _, written = on_a_terminal([sys.executable, "-c", PATIENT], cwd=REPOSITORY)
    assert code == 0, written
    assert "loading libraries and files" in written
    # The timer's function, called after something was said.
    soon = PATIENT.replace("PATIENCE_S = 0.1", "PATIENCE_S = 600").replace("thread.join()", "thread.function()")
    code, out, written = on_a_terminal([sys.executable, "-c", soon, "--said", "hello"], cwd=REPOSITORY)
    assert (code, out) == (0, "hello"), written
    assert "loading" not in written


def test_what_is_logged_stands_above_the_bar_and_a_loop_that_goes_on_counts_what_was_done():
    code, _, written = on_a_terminal([sys.executable, "-c", PATIENT, "--steps", "3"], cwd=REPOSITORY)
    assert code == 0, written
    *lines, bar = [line for line in screen(written) if "loading" not in line]
    assert [line.split(" ", 1)[1] for line in lines] == ["INFO store: line 0", "INFO store: line 1"]
    assert bar.startswith("work ")
    assert "3/3 steps" in bar
    assert "1/3" in written


def test_details_that_do_not_fit_are_cut_and_nothing_else_is():
    loop = """
        from store.console import progress
        with progress(2, label="a_run_of_[30]_letters\\x1b[2J", noun="steps", details=lambda: "word " * 40) as advance:
            advance(2)
    """
    code, _, written = on_a_terminal([sys.executable, "-c", textwrap.dedent(loop)], cwd=REPOSITORY)
    assert code == 0, written
    (line,) = screen(written)
    assert line.startswith("a_run_of_[30]_letters\\x1b[2J ")
    assert " 2/2 steps " in line
    assert line.endswith("…")
    assert len(line) <= 120


def test_a_process_whose_starter_shows_its_progress_reports_it(monkeypatch, capsys):
    monkeypatch.setenv(console.PROGRESS_VAR, "1")
    with progress(4, label="train", noun="steps", details=lambda: "loss 1.5") as advance:
        advance(1)  # within the interval
        advance(3)
    reports = [json.loads(line.removeprefix(console.REPORT)) for line in capsys.readouterr().err.split("\n")[:-1]]
    assert [(each["label"], each.get("done"), each.get("total")) for each in reports] == [
        ("train", 4, 4),
        ("train", None, None),
    ]
    assert reports[0]["text"].startswith("train: 4 of 4 steps, ")
    assert reports[0]["text"].endswith("; loss 1.5")
    assert reports[1]["ended"]
