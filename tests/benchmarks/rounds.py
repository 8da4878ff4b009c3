"""Measures several things in alternation, and finds the packages of peers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Measure = Callable[[], float]

SEED = 20261123


def medians(measures: dict[tuple[str, ...], Measure], rounds: int) -> dict[tuple[str, ...], float]:
    """Return the median of each; within a round each is measured once, every round in another order."""
    found: dict[tuple[str, ...], list[float]] = {name: [] for name in measures}
    rng = np.random.default_rng(SEED)
    names = list(measures)
    for number in range(rounds):
        for place in rng.permutation(len(names)):
            found[names[place]].append(measures[names[place]]())
        print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return {name: round(statistics.median(values), 1) for name, values in found.items()}


def nested(measured: dict[tuple[str, ...], float]) -> dict[str, dict[str, float]]:
    """Return measures by loader, then by workers."""
    found: dict[str, dict[str, float]] = {}
    for (loader, workers), value in measured.items():
        found.setdefault(loader, {})[workers] = value
    return found


def single(measured: dict[tuple[str, ...], float]) -> dict[str, float]:
    """Return measures by name."""
    return {name: value for (name,), value in measured.items()}


def add_packages(python: Path) -> None:
    """Let this process import what another environment has beside its own packages, which come first.

    Args:
        python: of that environment.
    """
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    sys.path.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
