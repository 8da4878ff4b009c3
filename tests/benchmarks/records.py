"""Runs a benchmark as a process of its own, and keeps what it printed beside what that depends on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from .listed import Benchmark

ROOT = Path(__file__).parents[2]
QUIET_LOAD = 1.0
"""Load average above which the machine is busy; a benchmark that ended a moment ago counts, too."""
QUIET_CORES = 0.5
"""Cores that other programs may take."""
LOOK_S, LOOKS = 5, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run of a benchmark.

    Attributes:
        command: as a user types it.
        date: UTC, when it began.
        commit: of the repository, ``-dirty`` if files but the page differ from it.
        machine: cores, memory and versions.
        seconds: wall clock.
        load: load averages of a minute, before and after.
        others: cores that other programs took meanwhile; programs that it left running count, too.
        is_busy: it was told to run on a machine that was not quiet.
        code: exit code.
        output: Markdown.
        peers: other libraries were measured beside ours.
    """

    command: str
    date: str
    commit: str
    machine: str
    seconds: float
    load: tuple[float, float]
    others: float
    is_busy: bool = False
    code: int = 0
    output: str
    peers: bool = False

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_record(path: Path) -> Record | None:
    """Return a record that was written, also beside other figures as ``record``; None if there is none."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return Record(**content.get("record", content))


class Watch:
    """Notes load and processor time from now on.

    Attributes:
        load: load average at its beginning.
    """

    def __init__(self) -> None:
        self._date, self.load = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}", os.getloadavg()[0]
        self._began, self._machine_s, self._own_s = time.monotonic(), _machine_seconds(), _own_seconds()

    def record(self, command: str, output: str, *, code: int = 0, is_busy: bool = False, peers: bool = False) -> Record:
        """Return the record of what ran since."""
        seconds = time.monotonic() - self._began
        others = (_machine_seconds() - self._machine_s) - (_own_seconds() - self._own_s)
        return Record(
            command=command,
            date=self._date,
            commit=_commit(),
            machine=machine(),
            seconds=round(seconds, 1),
            load=(round(self.load, 1), round(os.getloadavg()[0], 1)),
            others=round(max(0.0, others / seconds), 2),
            is_busy=is_busy,
            code=code,
            output=re.sub(r"\n{3,}", "\n\n", output.strip()),
            peers=peers,
        )


def _machine_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    # The page itself changes after each benchmark.
    changed = git("status", "--porcelain", "--", ".", ":!docs/benchmarks.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def machine() -> str:
    """Return cores, memory and versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "torch", "zarr"))
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, {versions}"


def cores_taken() -> float:
    """Return how many cores were at work for some seconds of sleep; it looks again while there are too many."""
    for _ in range(LOOKS):
        cores = psutil.cpu_percent(interval=LOOK_S) / 100 * (os.cpu_count() or 1)
        if cores <= QUIET_CORES:
            break
    return cores


def require_quiet(*, load: float, cores: float) -> None:
    """Refuse a machine on which other programs run.

    Args:
        load: load average; 0 where a benchmark has just ended, which it would still count.
        cores: that are at work.

    Raises:
        SystemExit: they take more than figures bear.
    """
    if load > QUIET_LOAD or cores > QUIET_CORES:
        raise SystemExit(
            f"error: the machine is busy: load {load:.1f}, {cores:.1f} cores at work; figures need at most "
            f"{QUIET_LOAD} and {QUIET_CORES}. Wait until other programs have ended, and run the same command again: "
            "what was measured is kept. With --busy it measures all the same, and the page says so."
        )


def run(benchmark: Benchmark, out: Path, *, is_quick: bool, is_busy: bool, peers: Path | None) -> Record:
    """Run a benchmark to its end; what it says on stderr goes to ``NAME.log``."""
    out.mkdir(parents=True, exist_ok=True)
    arguments = [*benchmark.arguments, *(benchmark.quick if is_quick else ())]
    arguments += ["--peers", str(peers)] if benchmark.peers and peers else []
    with (
        tempfile.TemporaryDirectory(dir=out.absolute(), prefix="work-", ignore_cleanup_errors=True) as work,
        (out / f"{benchmark.name}.log").open("w") as log,
    ):
        command = [part.replace("{work}", work) for part in (sys.executable, "-m", benchmark.module, *arguments)]
        watch = Watch()
        done = subprocess.run(
            command, cwd=ROOT, env=_environment(work), stdout=subprocess.PIPE, stderr=log, text=True, check=False
        )
        return watch.record(
            _typed(benchmark, arguments, peers),
            done.stdout,
            code=done.returncode,
            is_busy=is_busy,
            peers=benchmark.peers and peers is not None,
        )


def _typed(benchmark: Benchmark, arguments: Sequence[str], peers: Path | None) -> str:
    """Return the command as a user types it, without paths of this machine."""
    shown = {str(peers): "PYTHON", "{work}": "DIR"}
    return " ".join(["python -m", benchmark.module, *(shown.get(part, part) for part in arguments)])


def _environment(work: str) -> Mapping[str, str]:
    """Return the environment of a benchmark: its scratch files lie on the disk of the results, Ray's sockets do not."""
    own = {"TMPDIR": work, "RAY_TMPDIR": tempfile.gettempdir(), "RAY_AUTH_MODE": "disabled"}
    return os.environ | own | {"RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
