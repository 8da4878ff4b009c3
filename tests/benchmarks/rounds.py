"""Measuring several things in alternation, and showing what came out."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from typing import Any

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


def table(title: str, rows: dict[str, Any]) -> None:
    """Print a table of Markdown."""
    print(f"\n{title}\n")
    for name, value in rows.items():
        cells = value.values() if isinstance(value, dict) else [value]
        print(f"| {name} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")


def single(measured: dict[tuple[str, ...], float]) -> dict[str, float]:
    """Return measures by name."""
    return {name: value for (name,), value in measured.items()}
