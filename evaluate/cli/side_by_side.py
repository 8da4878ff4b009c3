"""Runs commands side by side under one display: a bar for each loop on a terminal, elsewhere one line for all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from store import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

Command = Sequence[str]


def run_together(commands: Sequence[Command]) -> list[int]:
    """Run commands side by side and return their exit codes.

    What a command writes to stderr comes out line by line, above the display. A command alone has its own display.
    """
    if len(commands) == 1:
        return [subprocess.run(commands[0], check=False).returncode]
    with _display() as display, ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda number: _run(number, commands[number], display), range(len(commands))))


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
        self._bars, self._lock, self._told = bars, threading.Lock(), time.monotonic()
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
                self._texts[key] = told["text"]
                if (now := time.monotonic()) - self._told >= console.PROGRESS_INTERVAL_S:
                    self._told = now
                    log.info("%s", " | ".join(text for _, text in sorted(self._texts.items())))

    def _draw(self, bars: Progress, key: tuple[int, str], told: Mapping[str, Any]) -> None:
        if "ended" in told:
            if key in self._tasks:
                bars.remove_task(self._tasks.pop(key))
            return
        fields = {name: told[name] for name in ("total", "noun", "details")}
        if key not in self._tasks:
            self._tasks[key] = bars.add_task(told["label"], **fields)
        bars.update(self._tasks[key], completed=told["done"], **fields)


@contextlib.contextmanager
def _display() -> Iterator[_Display]:
    with console.bars() if sys.stderr.isatty() else contextlib.nullcontext() as bars:
        yield _Display(bars)
