"""Several processes under one display, on a terminal and elsewhere."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluate.cli import side_by_side
from evaluate.cli.side_by_side import run_together
from store import console
from tests.terminal import on_a_terminal, screen

ROOT = Path(__file__).parents[3]

CHILD = """
import pathlib, sys, time
from store.console import REPORT_INTERVAL_S, progress
name, code, number = sys.argv[1:]
def meet(place):
    met = pathlib.Path(__file__).parent / place
    met.mkdir(exist_ok=True)
    (met / name).touch()
    while len([*met.iterdir()]) < int(number):
        time.sleep(0.01)
meet("begin")
with progress(3, label=name, noun="steps", details=lambda: f"loss of {name}") as advance:
    advance(1)
    with progress(9, label="validate", noun="pairs") as inner:
        inner(4)
    sys.stderr.write(f"said by {name}, a line " + "that is longer than the others\\n")
    time.sleep(REPORT_INTERVAL_S)
    advance(1)
    meet("two of three")
    time.sleep(0.6)
    advance(1)
    time.sleep(0.3)
sys.exit(int(code))
"""
PARENT = """
import json, sys
from evaluate.cli.side_by_side import run_together
sys.path.insert(0, sys.argv[1])
print([code for _, code in run_together(json.loads(sys.argv[2]))])
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder whose modules can be run; among them is the program ``child``."""
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def children(*codes):
    return [[["child", f"run{number}", str(code), str(len(codes))]] for number, code in enumerate(codes)]


@pytest.mark.end_to_end
def test_on_a_terminal_each_process_has_a_bar_and_what_they_say_stands_above_whole(modules):
    code, out, written = on_a_terminal([sys.executable, "-c", PARENT, str(modules), json.dumps(children(0, 3))])
    assert (code, out) == (0, "[0, 3]\n")
    # While both ran there were two bars below each other, and never a line of one in that of the other.
    frames = [screen(written[:end]) for end in range(0, len(written), 50)]
    both = [frame[-2:] for frame in frames if [line[:4] for line in frame[-2:]] in (["run0", "run1"], ["run1", "run0"])]
    assert any("2/3 steps" in line and f"loss of {line[:4]}" in line for frame in both for line in frame)
    said = [line for line in screen(written) if line.startswith("said by")]
    assert sorted(said) == [f"said by run{number}, a line that is longer than the others" for number in (0, 1)]


@pytest.mark.end_to_end
@pytest.mark.usefixtures("modules")
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
def test_a_command_alone_has_its_own_display(modules):
    code, out, written = on_a_terminal([sys.executable, "-c", PARENT, str(modules), json.dumps(children(4))])
    assert (code, out) == (0, "[4]\n")
    assert "3/3" in screen(written)[-1]


@pytest.mark.end_to_end
@pytest.mark.parametrize("preloaded", [True, False])
def test_a_chain_runs_one_command_after_the_other_up_to_the_first_that_fails(modules, preloaded):
    (modules / "touch.py").write_text(
        "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); sys.exit(int(sys.argv[2]))"
    )
    out = modules / "out"
    out.mkdir()

    def write(name, code):
        return ["touch", str(out / name), str(code)]

    failing, whole = [write("a", 0), write("b", 3), write("c", 0)], [write("d", 0), write("e", 0)]
    for chains in ([failing], [failing, whole]):
        ends = run_together(chains, preloaded=preloaded)
        assert ends == [(failing[1], 3), (whole[1], 0)][: len(chains)]
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "d", "e"]


PRELOADING = """
import sys
from evaluate.cli import side_by_side
side_by_side.PRELOADED = ["library"]
side_by_side.preload()
for preloaded in (True, False):
    ends = side_by_side.run_together([[["user"], ["user"]], [["user"]]], preloaded=preloaded)
    print([code for _, code in ends])
"""


@pytest.mark.end_to_end
def test_what_is_preloaded_is_loaded_once_for_all_commands(modules):
    loads = modules / "loads"
    (modules / "library.py").write_text(f"with open({str(loads)!r}, 'a') as file: file.write('loaded\\n')")
    (modules / "user.py").write_text("import library, sys; sys.exit(5 if sys.argv[1:] else 0)")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{modules}"}
    done = subprocess.run(
        [sys.executable, "-c", PRELOADING], cwd=modules, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[0, 0]\n[0, 0]\n", done.stderr
    assert loads.read_text().count("loaded") == 1 + 3  # by the server, and by each process that is started afresh


INTERRUPTED = """
from evaluate.cli import side_by_side
side_by_side.PRELOADED = ["library"]
side_by_side.preload()
try:
    side_by_side.run_together([[["user"], ["user"]], [["user"]]][:CHAINS])
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c_while_the_libraries_are_loaded_stops_the_commands_that_wait_for_them(modules, number):
    began, ends, ran = (modules / name for name in ("began", "ends", "ran"))
    (modules / "library.py").write_text(
        f"import os, time; open({str(began)!r}, 'w').close()\n"
        f"while not os.path.exists({str(ends)!r}): time.sleep(0.05)\n"
    )
    (modules / "user.py").write_text(f"import time; time.sleep(900); open({str(ran)!r}, 'w').close()")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{modules}"}
    command = [sys.executable, "-c", INTERRUPTED.replace("CHAINS", str(number))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=modules, env=environment, text=True, start_new_session=True, **pipes) as parent:
        while not began.exists():
            assert parent.poll() is None
        time.sleep(1)  # both commands wait for the server
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        time.sleep(0.2)
        ends.touch()
        out, err = parent.communicate()
    assert (out, parent.returncode) == ("stopped\n", 0)
    assert "library" not in err
    assert not ran.exists()


CAREFUL = """
import pathlib, sys, time
from train.runtime.interrupt import stopping
with stopping() as stop:
    pathlib.Path(sys.argv[1] + ".began").touch()
    while not stop.requested:
        time.sleep(0.05)
    time.sleep(1)
    pathlib.Path(sys.argv[1]).touch()
sys.exit(3)
"""


@pytest.mark.end_to_end
def test_ctrl_c_reaches_a_command_once_so_that_a_training_writes_its_checkpoint(modules):
    (modules / "careful.py").write_text(CAREFUL)
    saved = [modules / f"saved{number}" for number in range(2)]
    chains = [[["careful", str(path)], ["careful", "never"]] for path in saved]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{modules}"}
    command = [sys.executable, "-c", PARENT, str(modules), json.dumps(chains)]
    with subprocess.Popen(command, cwd=modules, env=environment, start_new_session=True) as parent:
        while not all(path.with_suffix(".began").exists() for path in saved):
            assert parent.poll() is None
        time.sleep(side_by_side.JUST_BEGUN_S)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait() != 0
    assert all(path.exists() for path in saved)
    assert not (modules / "never.began").exists()


@pytest.mark.end_to_end
def test_no_exit_code_is_lost_when_commands_begin_while_others_end(modules):
    (modules / "nothing.py").write_text("")
    (modules / "failing.py").write_text("raise SystemExit(7)")
    chains = [[["nothing"]] * 40 + [["failing"]] for _ in range(5)]
    assert run_together(chains) == [(["failing"], 7)] * 5


@pytest.mark.end_to_end
def test_all_that_is_preloaded_can_be_imported():
    for name in side_by_side.PRELOADED:
        importlib.import_module(name)  # the server would pass over one that cannot
