"""Seconds and peak memory of a command with everything it starts.

python -m tests.benchmarks.measure make demo
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a command took.

    Attributes:
        code: its exit code.
        seconds: wall clock.
        peak_gib: largest sum, over the command and its descendants at one moment, of the proportional set size: pages
            that several processes share are counted once.
    """

    code: int
    seconds: float
    peak_gib: float


def measure(command: Sequence[str]) -> Cost:
    """Run a command to its end, sampling its memory four times a second."""
    began = time.monotonic()
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(SAMPLE_SECONDS)
    seconds = round(time.monotonic() - began, 1)
    return Cost(code=process.returncode, seconds=seconds, peak_gib=round(peak / 2**30, 2))


def _memory(pid: int) -> int:
    """Return the bytes of a process and its descendants; one that just ended counts nothing."""
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    cost = measure(sys.argv[1:])
    print(f"{cost.seconds} s, peak memory {cost.peak_gib} GiB, exit code {cost.code}")
    sys.exit(cost.code)
