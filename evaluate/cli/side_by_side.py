"""Runs commands side by side under one display: a bar for each loop on a terminal, elsewhere one line for all."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from store import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

Command = list[str]

Chain = list[Command]
"""Commands one after the other; one that fails is the last."""


def run_together(chains: Sequence[Chain]) -> list[tuple[Command, int]]:
    """Run chains side by side; return the last command of each that was run, and its exit code.

    What a command writes to stderr comes out line by line, above the display. A chain alone has its own display.
    """
    if len(chains) == 1:
        alone = os.environ | {console.PROGRESS_VAR: ""}
        return [_chain(chains[0], lambda command: subprocess.run(command, check=False, env=alone).returncode)]
    with _display() as display, ThreadPoolExecutor(len(chains)) as pool:

        def run(number: int) -> tuple[Command, int]:
            return _chain(chains[number], lambda command: _run(number, command, display))

        return list(pool.map(run, range(len(chains))))


def _chain(chain: Chain, run: Callable[[Command], int]) -> tuple[Command, int]:
    command, code = chain[0], 0
    for command in chain:
        if code := run(command):
            break
    return command, code


def _run(number: int, command: Command, display: _Display) -> int:
    environment = os.environ | {console.PROGRESS_VAR: "1"}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True, errors="replace")
    with started as process:
        for line in process.stderr or ():
            if line.startswith(console.REPORT):
                display.report(number, json.loads(line.removeprefix(console.REPORT)))
            else:
                display.say(line)
    return process.returncode


class _Display:
    """Shows the reports of all processes.

    Args:
        bars: drawn on a terminal; None elsewhere.
    """

    def __init__(self, bars: Progress | None) -> None:
        self._bars, self._lock, self._due = bars, threading.Lock(), math.inf
        self._tasks: dict[tuple[int, str], TaskID] = {}
        self._texts: dict[tuple[int, str], str] = {}

    def say(self, line: str) -> None:
        with self._lock:
            # The bars redirect stderr, and put a line above them.
            sys.stderr.write(line)

    def report(self, number: int, told: Mapping[str, Any]) -> None:
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
