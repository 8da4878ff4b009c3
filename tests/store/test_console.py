from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer

from store.console import ExitCode, _Printable, cell, main, render_error
from store.errors import ConfigError, MMKDError, StoreNotFoundError

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _program() -> None:
    """Do what the tests ask."""


@app.command()
def show(times: int = 1) -> None:
    sys.stdout.write("data\n" * times)


@app.command()
def fail() -> None:
    raise StoreNotFoundError("runs/x: no store", hint="python -m extract index --pipeline x")


@app.command()
def leave(code: int) -> None:
    raise typer.Exit(code)


@app.command()
def give_back(what: str) -> object:
    return {"code": ExitCode.INCOMPLETE, "summary": {"rows": 3}}[what]


@app.command()
def refuse() -> None:
    raise typer.BadParameter("give --out FOLDER")


@app.command()
def crash(name: str) -> None:
    raise {"KeyError": KeyError, "EOFError": EOFError, "OSError": OSError}[name]("a bug")


@app.command()
def fail_in_the_system(number: int, name: str = "", other: str = "") -> None:
    raise OSError(number, os.strerror(number), name or None, None, other or None)


@app.command()
def ask() -> None:
    raise typer.Abort


@app.command()
def interrupt(name: str) -> None:
    signal.raise_signal(signal.Signals[name])


HANGING = """
import threading, typer
from store.console import leave_threads, main

app = typer.Typer()

@app.command()
def hang() -> int:
    threading.Thread(target=threading.Event().wait).start()
    leave_threads()
    print("done")
    return 4

main(app, program="program")
"""


def test_a_process_ends_though_a_thread_hangs():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", HANGING], cwd=root, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (4, b"done\n")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the program above; returns exit code, stdout and stderr."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("COLUMNS", "100")

    def run_program(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as left:
            main(app, program="python -m program")
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    yield run_program
    signal.signal(signal.SIGTERM, before)


def test_a_complete_run_exits_0_with_data_on_stdout_alone(run):
    assert run("show", "--times", "2") == (0, "data\ndata\n", "")


def test_an_error_of_ours_is_a_message_with_a_hint_on_stderr_and_exits_1(run):
    assert run("fail") == (1, "", "error: runs/x: no store\nhint: python -m extract index --pipeline x\n")


def test_control_characters_of_a_message_reach_no_terminal():
    error = MMKDError("a\x1b[31mb\n\x07c", hint="\u202ed")
    assert render_error(error) == "error: a\\x1b[31mb\n\\x07c\nhint: \\u202ed\n"
    record = logging.LogRecord("x", logging.INFO, "", 0, "of %s", ("\x1b]0;title\x07",), None)
    assert _Printable("%(message)s").format(record) == "of \\x1b]0;title\\x07"


@pytest.mark.parametrize(
    ("value", "safe"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), ("a=b", "a=b"), (-1.5, -1.5), (None, None), ("", "")],
)
def test_a_spreadsheet_takes_no_text_for_a_formula(value, safe):
    assert cell(value) == safe


def test_an_error_without_a_hint_is_rendered_without_one():
    assert render_error(MMKDError("what, where")) == "error: what, where\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--times", "many"], "--times"),
        (["show", "--tmies", "2"], "--tmies"),
        (["shwo"], "shwo"),
        (["leave"], "Missing argument"),
        (["refuse"], "give --out FOLDER"),
    ],
)
def test_wrong_usage_exits_2_and_points_to_the_help(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "python -m program" in err
    assert "--help" in err


def test_help_exits_0_on_stdout(run):
    code, out, err = run("show", "--help")
    assert (code, err) == (0, "")
    assert "python -m program show" in out


@pytest.mark.parametrize("code", [0, 1, 4])
def test_a_command_chooses_its_exit_code_by_typer_exit(run, code):
    assert run("leave", str(code)) == (code, "", "")


def test_a_returned_exit_code_counts_and_any_other_result_does_not(run):
    assert run("give-back", "code")[0] == ExitCode.INCOMPLETE
    assert run("give-back", "summary")[0] == ExitCode.COMPLETE


@pytest.mark.parametrize("arguments", [["interrupt", "SIGINT"], ["interrupt", "SIGTERM"], ["ask"]])
def test_interruption_exits_3_and_says_that_work_is_kept(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("interrupted: what was committed stays")


def test_a_program_says_itself_what_an_interruption_leaves(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", "interrupt", "SIGINT"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        main(app, program="program", interrupted="the unfinished run was dropped")
    signal.signal(signal.SIGTERM, before)
    assert left.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: the unfinished run was dropped"


@pytest.mark.parametrize(
    "number", [errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EISDIR, errno.ENOENT, errno.EROFS, errno.ELOOP]
)
def test_what_the_system_says_of_a_file_is_an_error_without_a_traceback(run, number):
    code, out, err = run("fail-in-the-system", str(number), "--name", "runs/x")
    assert (code, out, err) == (1, "", f"error: runs/x: {os.strerror(number)}\n")


def test_of_a_rename_the_new_name_is_shown(run):
    err = run("fail-in-the-system", str(errno.ENOTEMPTY), "--name", ".x.partial", "--other", "x")[2]
    assert err == "error: x: Directory not empty\n"


@pytest.mark.parametrize(("name", "shown"), [("runs/x", "runs/x: "), ("", "")])
def test_a_full_disk_has_a_hint_even_if_no_file_is_named(run, name, shown):
    code, _, err = run("fail-in-the-system", str(errno.ENOSPC), "--name", name)
    hint = "hint: make room on that disk, then run the same command again"
    assert (code, err) == (1, f"error: {shown}No space left on device\n{hint}\n")


def test_where_an_error_of_the_system_was_raised_is_shown_when_debugging(run, caplog):
    caplog.set_level(logging.DEBUG, logger="store.console")
    run("fail-in-the-system", str(errno.EACCES), "--name", "runs/x")
    assert "raised here" in caplog.text
    assert "in fail_in_the_system" in caplog.text


@pytest.mark.parametrize("bug", [KeyError, EOFError, OSError])
def test_a_bug_leaves_main_as_the_exception_it_is(monkeypatch, bug):
    monkeypatch.setattr(sys, "argv", ["program", "crash", bug.__name__])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(bug, match="a bug") as raised:
            main(app, program="python -m program")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "crash" in [entry.name for entry in raised.traceback]


def test_an_error_of_the_system_about_no_file_is_a_bug(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "fail-in-the-system", str(errno.EBADF)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            main(app, program="python -m program")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_log_level_comes_from_the_environment_and_a_wrong_one_is_bad_input(run, monkeypatch):
    monkeypatch.setenv("MMKD_LOG", "loud")
    code, _, err = run("show")
    assert code == 1
    assert err == "error: MMKD_LOG: expected DEBUG, INFO, WARNING or ERROR, got 'LOUD'\n"
    monkeypatch.setenv("MMKD_LOG", "")
    assert run("show")[0] == 0


def start(tmp_path: Path, body: str, **options) -> subprocess.Popen[str]:
    """Start a program with one command of that body, in a process of its own."""
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, time, typer\n"
        "from store.console import main, progress\n"
        "app = typer.Typer(add_completion=False)\n"
        "@app.command()\ndef command() -> None:\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\n"
        "main(app, program='program')\n"
    )
    return subprocess.Popen(
        [sys.executable, script], env=ENVIRONMENT, text=True, **{"stdout": subprocess.PIPE, **options}
    )


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_ends_it_with_3(tmp_path, number):
    program = start(tmp_path, "print('ready', flush=True)\ntime.sleep(600)", stderr=subprocess.PIPE)
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    _, err = program.communicate()
    assert program.returncode == 3
    assert err.splitlines()[-1].startswith("interrupted:")
    assert "Traceback" not in err


@pytest.mark.end_to_end
def test_sigterm_while_the_interpreter_ends_does_not_change_the_exit_code(tmp_path):
    body = """
        import os, signal
        class Late:  # Python has given up its own handlers when it deletes what is left in a module
            def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM, write=os.write):
                write(1, b"late")
                kill(process, number)
        sys.modules["__main__"].late = Late()
        raise typer.Exit(4)
    """
    program = start(tmp_path, body, stderr=subprocess.PIPE)
    assert program.communicate() == ("late", "")
    assert program.returncode == 4


@pytest.mark.end_to_end
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_enough_ends_the_program_quietly(tmp_path, lines):
    program = start(
        tmp_path, f"sys.stdin.read()\nprint('data\\n' * {lines})", stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    program.stdout.close()
    program.stdin.close()
    assert program.stderr.read() == ""
    assert program.wait() == 1


@pytest.mark.end_to_end
def test_output_that_finds_a_full_disk_is_an_error(tmp_path):
    with Path("/dev/full").open("w") as full:
        program = start(tmp_path, "print('data')", stdout=full, stderr=subprocess.PIPE)
        err = program.communicate()[1]
    assert program.returncode == 1
    assert err.startswith("error: No space left on device\nhint: make room")
    assert "Exception ignored" not in err


@pytest.mark.end_to_end
def test_a_bug_prints_a_plain_traceback_without_the_values_of_variables(tmp_path):
    program = start(tmp_path, "password = 'se' + 'cret'\n1 / len(sys.argv[9:])", stderr=subprocess.PIPE)
    _, err = program.communicate()
    assert program.returncode == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("ZeroDivisionError: division by zero\n")
    assert "secret" not in err


def test_a_configuration_error_shows_every_line():
    shown = render_error(ConfigError("a.yaml:1: x: unknown key\na.yaml:2: y: unknown key"))
    assert shown == "error: a.yaml:1: x: unknown key\na.yaml:2: y: unknown key\n"
