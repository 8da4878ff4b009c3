"""Several processes under one display, on a terminal and elsewhere."""

from __future__ import annotations

import json
import sys

import pytest

from evaluate.cli.side_by_side import run_together
from store import console
from tests.terminal import on_a_terminal, screen

CHILD = """
import sys, time
from store.console import REPORT_INTERVAL_S, progress
name, code = sys.argv[1:]
with progress(3, label=name, noun="steps", details=lambda: f"loss of {name}") as advance:
    advance(1)
    with progress(9, label="validate", noun="pairs") as inner:
        inner(4)
    sys.stderr.write(f"said by {name}, a line " + "that is longer than the others\\n")
    time.sleep(REPORT_INTERVAL_S)
    advance(1)
    time.sleep(0.3)
    advance(1)
    time.sleep(0.3)
sys.exit(int(code))
"""
PARENT = """
import json, sys
from evaluate.cli.side_by_side import run_together
print([code for _, code in run_together(json.loads(sys.argv[1]))])
"""


def children(*codes):
    return [[[sys.executable, "-c", CHILD, f"run{number}", str(code)]] for number, code in enumerate(codes)]


@pytest.mark.end_to_end
def test_on_a_terminal_each_process_has_a_bar_and_what_they_say_stands_above_whole():
    code, out, written = on_a_terminal([sys.executable, "-c", PARENT, json.dumps(children(0, 3))])
    assert (code, out) == (0, "[0, 3]\n")
    # While both ran there were two bars below each other, and never a line of one in that of the other.
    frames = [screen(written[:end]) for end in range(0, len(written), 50)]
    both = [frame[-2:] for frame in frames if [line[:4] for line in frame[-2:]] in (["run0", "run1"], ["run1", "run0"])]
    assert any("2/3 steps" in line and f"loss of {line[:4]}" in line for frame in both for line in frame)
    said = [line for line in screen(written) if line.startswith("said by")]
    assert sorted(said) == [f"said by run{number}, a line that is longer than the others" for number in (0, 1)]


@pytest.mark.end_to_end
def test_elsewhere_one_line_tells_of_all(monkeypatch, caplog, capfd):
    monkeypatch.setattr(console, "FIRST_S", 0.2)
    monkeypatch.setattr(console, "PROGRESS_INTERVAL_S", 0.2)
    caplog.set_level("INFO", logger="evaluate.cli.side_by_side")
    assert [code for _, code in run_together(children(0, 0))] == [0, 0]
    assert any(
        message.startswith("run0: ") and " | run1: " in message and "steps" in message and "; loss of run1" in message
        for message in caplog.messages
    )
    err = capfd.readouterr().err
    assert err.count("said by run") == 2
    assert console.REPORT not in err


@pytest.mark.end_to_end
def test_a_command_alone_has_its_own_display():
    code, _, written = on_a_terminal([sys.executable, "-c", PARENT, json.dumps(children(4)[:1])])
    assert code == 0
    assert "3/3" in screen(written)[-1]


@pytest.mark.end_to_end
def test_a_chain_runs_one_command_after_the_other_up_to_the_first_that_fails(tmp_path):
    def write(name, code):
        text = f"import pathlib, sys; pathlib.Path({str(tmp_path / name)!r}).touch(); sys.exit({code})"
        return [sys.executable, "-c", text]

    failing, whole = [write("a", 0), write("b", 3), write("c", 0)], [write("d", 0), write("e", 0)]
    for chains in ([failing], [failing, whole]):
        ends = run_together(chains)
        assert ends == [(failing[1], 3), (whole[1], 0)][: len(chains)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d", "e"]
