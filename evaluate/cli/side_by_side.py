"""Runs commands side by side under one display: a bar for each loop on a terminal, elsewhere one line for all.

A process that loads the libraries of models itself takes seconds until it begins. Here they are loaded once, by a
server from which the processes of commands are forked.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from store import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

Command = list[str]
"""A module and its arguments, as after ``python -m``."""

Chain = list[Command]
"""Commands one after the other; one that fails is the last."""

PRELOADED = ["extract.run.run", "extract.teachers.open_clip_model", "train.trainer.stages", "evaluate.suite.suite"]
"""Modules that the server imports, and with them the libraries of models."""

INTERRUPT = {signal.SIGINT}

JUST_BEGUN_S = 2.0
"""A command that began so shortly before Ctrl-C may have been forked after it, and has nothing to lose."""


def preload() -> None:
    """Start the server, which loads the libraries while this process goes on; call it from the main thread."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    # A terminal sends Ctrl-C to the server too, which would report where it was in loading. Its children unblock it.
    resource_tracker.ensure_running()  # the server's start does it too, and it ends with unblocking
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)


def run_together(chains: Sequence[Chain], *, preloaded: bool = True) -> list[tuple[Command, int]]:
    """Run chains side by side; return the last command of each that was run, and its exit code.

    What a command writes to stderr comes out line by line, above the display. A chain alone has its own display.

    Args:
        preloaded: fork the processes from the server, for which they wait. Else they are started afresh.
    """
    processes, together = _Processes(preloaded=preloaded), len(chains) > 1
    with _display() if together else contextlib.nullcontext() as display, ThreadPoolExecutor(len(chains)) as pool:
        takers = [partial(display.take, number) if display else None for number in range(len(chains))]
        try:
            ends = [pool.submit(processes.chain, chain, take) for chain, take in zip(chains, takers, strict=True)]
            return [end.result() for end in ends]
        except BaseException:
            processes.stop()
            raise


class _Processes:
    """The processes of commands; once they are stopped, none is started."""

    def __init__(self, *, preloaded: bool) -> None:
        self._preloaded, self._lock, self._stopping = preloaded, threading.Lock(), False
        self._begun: dict[BaseProcess, float] = {}
        # A start looks at all processes that have ended, and a join beside it may then miss the exit code.
        self._one_at_a_time = threading.Lock()

    def chain(self, chain: Chain, take: Callable[[str], None] | None) -> tuple[Command, int]:
        """Run commands up to the first that fails; ``take`` is given the lines of their stderr."""
        command, code = chain[0], 0
        for command in chain:
            if code := self._run(command, take):
                break
        return command, code

    def stop(self) -> None:
        """Start nothing more, and stop what Ctrl-C has not reached; what it has reached stops by itself."""
        with self._lock:
            self._stopping = True
            for process, begun in self._begun.items():
                if time.monotonic() - begun < JUST_BEGUN_S:
                    process.terminate()

    def _run(self, command: Command, take: Callable[[str], None] | None) -> int:
        context = multiprocessing.get_context("forkserver") if self._preloaded else multiprocessing.get_context("spawn")
        environment = {**os.environ, console.PROGRESS_VAR: "1" if take else ""}
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_command, args=(command, environment, theirs if take else None))
        with self._one_at_a_time:
            process.start()
        theirs.close()
        with self._lock:
            self._begun[process] = time.monotonic()
            if self._stopping:
                process.terminate()
        if take:
            with open(ours.fileno(), errors="replace", closefd=False) as lines:
                for line in lines:
                    take(line)
        wait([process.sentinel])
        with self._one_at_a_time:
            process.join()
        with self._lock:
            del self._begun[process]
            return int(self._stopping) if process.exitcode == 0 else process.exitcode or 1


def _command(command: Command, environment: Mapping[str, str], stderr: Connection | None) -> None:
    os.environ |= environment
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
    if stderr:
        os.dup2(stderr.fileno(), sys.stderr.fileno())
        stderr.close()
    module, *sys.argv[1:] = command
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class _Display:
    """Shows the reports of all processes.

    Args:
        bars: drawn on a terminal; None elsewhere.
    """

    def __init__(self, bars: Progress | None) -> None:
        self._bars, self._lock, self._due = bars, threading.Lock(), math.inf
        self._tasks: dict[tuple[int, str], TaskID] = {}
        self._texts: dict[tuple[int, str], str] = {}

    def take(self, number: int, line: str) -> None:
        """Show a line that a process has written to stderr."""
        if line.startswith(console.REPORT):
            self._report(number, json.loads(line.removeprefix(console.REPORT)))
        else:
            with self._lock:
                # The bars redirect stderr, and put a line above them.
                sys.stderr.write(line)

    def _report(self, number: int, told: Mapping[str, Any]) -> None:
        key = number, told["label"]
        with self._lock:
            if self._bars:
                self._draw(self._bars, key, told)
            elif "ended" in told:
                self._texts.pop(key, None)
            else:
                now = time.monotonic()
                if key not in self._texts:
                    self._due = min(self._due, now + console.FIRST_S)
                self._texts[key] = told["text"]
                if now >= self._due:
                    self._due = now + console.PROGRESS_INTERVAL_S
                    log.info("%s", " | ".join(text for _, text in sorted(self._texts.items())))

    def _draw(self, bars: Progress, key: tuple[int, str], told: Mapping[str, Any]) -> None:
        if "ended" in told:
            if key in self._tasks:
                bars.remove_task(self._tasks.pop(key))
            return
        fields = {name: told[name] for name in ("total", "noun", "details")}
        if key not in self._tasks:
            self._tasks[key] = bars.add_task(told["label"], completed=told["done"], **fields)
        bars.update(self._tasks[key], completed=told["done"], **fields)


@contextlib.contextmanager
def _display() -> Iterator[_Display]:
    with console.bars() if sys.stderr.isatty() else contextlib.nullcontext() as bars:
        yield _Display(bars)
