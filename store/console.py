"""Exit codes, error lines, logging and progress of the four programs' command lines.

Logs and progress go to stderr, data to stdout.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import errno
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer
from typer.completion import get_completion_inspect_parameters
from typer.main import get_command

from .errors import ConfigError, MMKDError, plain, printable
from .terminal import guard_streams, nothing_said, unguarded

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 30.0
"""Seconds between two lines of progress where there is no terminal; keeps a job's log short."""

PATIENCE_S = 2.5
"""Seconds after which a terminal is told why it shows nothing yet; the libraries of models take longer to load."""

PROGRESS_VAR = "MMKD_PROGRESS"
"""Set for a process that is a part of a longer work and says no next step.

If it is not empty, the starter shows the progress of several such processes: they report, and draw nothing.
"""

FIRST_S = 3.0
"""Seconds until the first of these lines: whoever waits longer should know for what."""

REPORT = "\x1eprogress "
"""Beginning of a line of stderr that reports progress; a JSON object follows."""

REPORT_INTERVAL_S = 0.5
"""Seconds between two reports; as often as a display needs."""

CTRL_C = 130
"""Recent versions of Typer return this after Ctrl-C, as shells do; older ones raise Abort."""

COMPLETE_VAR = "_MMKD_COMPLETE"
"""docs/completion.bash sets it. Typer's own scripts put the program into a variable's name: ``python -m`` is none."""

RESUMES = "what was committed stays; run the same command again to go on"
"""The default text after an interruption."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a write to a full disk; the error often names no file."""


_threads_left = threading.Event()


class ExitCode(IntEnum):
    """Exit codes of all four programs (2, wrong usage, is Click's own)."""

    COMPLETE = 0
    BAD_INPUT = 1
    WRONG_USAGE = 2
    INTERRUPTED = 3
    INCOMPLETE = 4


def main(app: typer.Typer, *, program: str, interrupted: str = RESUMES) -> None:
    """Run a Typer application and leave the process with the documented exit code.

    Args:
        program: the command in usage lines, e.g. ``python -m store``.
        interrupted: printed after Ctrl-C: which results stay, and what to do next.
    """
    # Recent versions of Typer bring their own copy of Click, older ones raise the click package's exceptions.
    click_exceptions = importlib.import_module(typer.BadParameter.__module__)
    signal.signal(signal.SIGTERM, _interrupt)
    guard_streams()
    waiting = threading.Timer(PATIENCE_S, _say_waiting)
    waiting.daemon = True
    try:
        _log_to_stderr()
        if sys.stderr.isatty():
            waiting.start()
        # Not app(): that replaces the plain traceback of a bug by a drawn one.
        if COMPLETE_VAR in os.environ:
            get_completion_inspect_parameters()  # Typer's completions, which it sets up for its own scripts alone
        result = get_command(app)(prog_name=program, standalone_mode=False, complete_var=COMPLETE_VAR)
        code = result if isinstance(result, int) else ExitCode.COMPLETE
        _flush_stdout()
    except click_exceptions.ClickException as error:
        error.show()
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # Click takes a file that ends early for the end of the input
            raise error.__cause__ from None
        code = CTRL_C
    except MMKDError as error:
        sys.stderr.write(render_error(error))
        code = ExitCode.BAD_INPUT
    except BrokenPipeError:  # the reader of the output closed it, as `| head` does
        code = ExitCode.BAD_INPUT
    except OSError as error:
        # Only an error of the operating system, about a file or a full disk, is the user's; any other one is a bug.
        if error.strerror is None or not (isinstance(error.filename, str | bytes) or error.errno in FULL):
            raise
        log.debug("raised here", exc_info=error)
        sys.stderr.write(render_os_error(error))
        code = ExitCode.BAD_INPUT
    finally:
        waiting.cancel()
    if code == CTRL_C:
        sys.stderr.write(f"interrupted: {interrupted}\n")
        code = ExitCode.INTERRUPTED
    sys.stderr.flush()
    if _threads_left.is_set():
        os._exit(int(code))
    # All is done and said. Without this SIGTERM would change the exit code while the interpreter ends.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    sys.exit(int(code))


def _say_waiting() -> None:
    if nothing_said():
        sys.stderr.write("loading libraries and files, some seconds more\n")


def leave_threads() -> None:
    """Let `main` end the process without the interpreter's own end.

    That would wait for a thread that hangs, as in a damaged image, and aborts if a daemon is in compiled code.
    """
    _threads_left.set()


def _flush_stdout() -> None:
    """Write buffered output now: on exit the interpreter would do it, and report a failure in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        # The rest stays buffered; on exit the interpreter writes it to nowhere.
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def _log_to_stderr() -> None:
    level = (os.environ.get("MMKD_LOG") or "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"MMKD_LOG: expected DEBUG, INFO, WARNING or ERROR, got '{level}'")
    # Libraries log too much at INFO (open_clip: pages of it for nine teachers), so they log from WARNING on.
    for package in ("store", "extract", "train", "evaluate"):
        logging.getLogger(package).setLevel(level)
    handler = _ToStderr()
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=max(logging.WARNING, logging.getLevelNamesMapping()[level]), handlers=[handler])


class _ToStderr(logging.Handler):
    """Writes to what is stderr at that moment: a progress bar stands in for it, and stays below what is written."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if _open:
                _open[0].console.out(self.format(record), highlight=False)
            else:
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


class _Printable(logging.Formatter):
    """Writes out control characters, and line breaks of what is filled in: it may repeat what a stranger wrote."""

    def format(self, record: logging.LogRecord) -> str:
        shown = copy.copy(record)
        if isinstance(record.args, tuple):
            shown.args = tuple(
                printable(str(one)) if isinstance(one, str | Exception | Path) else one for one in record.args
            )
        return printable(super().format(shown), keep="\n\t")


def cell(value: object) -> object:
    """Return a value for a CSV file, in which neither a spreadsheet nor a terminal finds something to run."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\\t", "\\r")) else text


def say(*lines: str) -> None:
    """Write lines to stdout; each stays one line, whatever strangers wrote into it."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def say_next(*steps: str) -> None:
    """Write commands that are useful next to stderr, beside the log."""
    if PROGRESS_VAR not in os.environ:
        sys.stderr.write("".join(f"next: {printable(step)}\n" for step in steps))


def styled(text: object) -> str:
    """Return a text that rich shows on one line, as it is."""
    from rich.markup import escape

    return escape(printable(str(text)))


def render_error(error: MMKDError) -> str:
    """Return the text a program prints for an error: the message, then its hint."""
    hint = f"hint: {error.hint}\n" if error.hint else ""
    return printable(f"error: {error}\n{hint}", keep="\n")


def render_os_error(error: OSError) -> str:
    """Return the text a program prints for an error of the operating system: which file, what is wrong with it.

    MMKD_LOG=DEBUG shows where it was raised.
    """
    # The error of a rename has two names, of which the user knows the second.
    name = error.filename if error.filename2 is None else error.filename2
    place = "" if name is None else f"{printable(os.fsdecode(name))}: "
    hint = "hint: make room on that disk, then run the same command again\n" if error.errno in FULL else ""
    return f"error: {place}{error.strerror}\n{hint}"


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # `ray job stop` and schedulers send SIGTERM; it ends a program the way Ctrl-C does.
    raise KeyboardInterrupt


@contextlib.contextmanager
def without_root_warnings() -> Iterator[None]:
    """Drop warnings of libraries that log on the root logger itself, as open_clip does.

    It warns of each model that is built without weights, but here weights are always loaded afterwards.
    """

    def serious(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    # A filter of the root logger applies only to what is logged on it directly.
    root = logging.getLogger()
    root.addFilter(serious)
    try:
        yield
    finally:
        root.removeFilter(serious)


@contextlib.contextmanager
def progress(
    total: int, *, label: str, noun: str, details: Callable[[], str] | None = None, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show how far a loop has come: a bar on a terminal; elsewhere a line after 3 s, then one every 30 s.

    Loops inside each other share one display, and so do processes whose starter reads their reports (`REPORT`).

    Args:
        label: names the work, e.g. ``extract``.
        noun: the things that are counted, e.g. ``units``.
        details: returns more text, shown at the end of the line.
        done: things that were done before this process began.

    Yields:
        A function that is told how many more things are done.
    """
    label = printable(label)
    loop = _Loop(total=total, label=label, noun=noun, details=details or str, before=done, done=done)
    if os.environ.get(PROGRESS_VAR):
        try:
            yield loop.reporting
        finally:
            _report(f"{REPORT}{json.dumps({'label': label, 'ended': True})}\n")
    elif sys.stderr.isatty():
        with bars() as shown:
            inner = bool(shown.tasks)
            task = shown.add_task(label, total=total, completed=done, noun=noun, details="")
            try:
                yield lambda done: shown.update(task, advance=done, details=loop.details())
            finally:
                if inner:
                    shown.remove_task(task)
    else:
        yield loop.logging


def _report(line: str) -> None:
    # Not through the guarded stream, which writes out the letter that no stranger's text can hold.
    unguarded(sys.stderr).write(line)


@dataclass(kw_only=True, slots=True)
class _Loop:
    """A loop's progress as text."""

    total: int
    label: str
    noun: str
    details: Callable[[], str]
    before: int
    done: int
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    lines: int = 0

    def logging(self, done: int) -> None:
        self.done += done
        if (now := time.monotonic()) - self.told >= (PROGRESS_INTERVAL_S if self.lines else FIRST_S):
            self.told, self.lines = now, self.lines + 1
            log.info("%s", self.text())

    def reporting(self, done: int) -> None:
        self.done += done
        if (now := time.monotonic()) - self.told >= REPORT_INTERVAL_S or self.done >= self.total:
            self.told = now
            names = ("label", "done", "total", "noun")
            told = {name: getattr(self, name) for name in names} | {"details": self.details(), "text": self.text()}
            _report(f"{REPORT}{json.dumps(told)}\n")

    def text(self) -> str:
        rate = (self.done - self.before) / max(time.monotonic() - self.began, 1e-9)
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        more = f"; {told}" if (told := self.details()) else ""
        return f"{self.label}: {self.done} of {self.total} {self.noun}, {rate:.1f}/s{left}{more}"


_open: list[Progress] = []


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """Yield the display of this process on a terminal, which a block inside shares; a task needs noun and details."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Details(ProgressColumn):
        """Gives way on a narrow terminal; the other columns keep their width."""

        def render(self, task: Task) -> Text:
            return Text(task.fields["details"], no_wrap=True, overflow="ellipsis")

    if _open:
        yield _open[0]
        return
    kept = Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=kept),
        BarColumn(bar_width=16, table_column=kept),
        MofNCompleteColumn(table_column=kept),
        TextColumn("{task.fields[noun]}", markup=False, table_column=kept),
        TimeRemainingColumn(table_column=kept),
        Details(),
    )
    # Redirected, what a program prints would go to stderr with the bar.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as shown:
        _open.append(shown)
        try:
            yield shown
        finally:
            _open.clear()
