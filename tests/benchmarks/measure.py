"""Seconds, processor time, peak memory and disk reads of a command with everything it starts.

python -m tests.benchmarks.measure make demo
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

SAMPLE_SECONDS = 0.25

READ_BLOCK = 512
"""Bytes of a block of ``ru_inblock``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The time and memory that a command took.

    Attributes:
        code: its exit code.
        seconds: wall clock.
        peak_gib: largest sum, over the command and its descendants at one moment, of the proportional set size: pages
            that several processes share are counted once.
        own_gib: the same without pages of files, which the system takes back when it needs them.
        cpu_seconds: of all processors, of the command and the descendants that it waited for.
        read_gb: 10⁹ bytes that had to come from a disk, because they were not in memory.
    """

    code: int
    seconds: float
    peak_gib: float
    own_gib: float
    cpu_seconds: float
    read_gb: float


def measure(command: Sequence[str], *, stdout: IO[bytes] | None = None) -> Cost:
    """Run a command to its end, sampling its memory four times a second; one command at a time in a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=stdout)
    peak = own = 0
    while process.poll() is None:
        now, of_it = _memory(process.pid)
        peak, own = max(peak, now), max(own, of_it)
        time.sleep(SAMPLE_SECONDS)
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(
        code=process.returncode,
        seconds=round(seconds, 1),
        peak_gib=round(peak / 2**30, 2),
        own_gib=round(own / 2**30, 2),
        cpu_seconds=round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        read_gb=round((after.ru_inblock - before.ru_inblock) * READ_BLOCK / 1e9, 3),
    )


def _memory(pid: int) -> tuple[int, int]:
    """Return the bytes of a process and its descendants, with and without pages of files; 0 of one that just ended."""
    total = own = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        sizes = {name: 1024 * int(size) for name, size in re.findall(r"^(Pss|Pss_Anon): +(\d+) kB", text, re.MULTILINE)}
        total, own = total + sizes.get("Pss", 0), own + sizes.get("Pss_Anon", 0)
    return total, own


if __name__ == "__main__":
    cost = measure(sys.argv[1:])
    print(
        f"{cost.seconds} s, {cost.cpu_seconds} s of processors, peak memory {cost.peak_gib} GiB, exit code {cost.code}"
    )
    sys.exit(cost.code)
