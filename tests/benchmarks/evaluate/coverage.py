"""Measure how often 95 % intervals hold the true value: ``python -m tests.benchmarks.evaluate.coverage``.

Every metric of the registry, n of 40 to 1,000, balanced and 9:1, good, excellent and collapsed models, independent
items and clusters of four. A cell is the lowest coverage of the three models; intervals that their record marks as not
to be trusted do not count, and a model of which half are marked does not either: a cell without any is a dash.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from evaluate.metrics.bootstrap import Interval, Resampling, interval, natural_mode, resampled
from evaluate.metrics.intervals import intervals_of
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import metrics_named

from .drawn_predictions import KINDS, SKILL, Population, draw_test_set, truth

SIZES = {1: (40, 100, 200, 1000), 4: (40, 200)}
"""Test items, by the number of items of a cluster."""
BALANCES = ("balanced", "9:1")
REPETITIONS, RESAMPLES = 300, 200
LEAST = 0.93
FEWEST = 0.5
"""Share of trusted intervals below which their coverage says nothing."""


@dataclass(kw_only=True, slots=True)
class Hits:
    """Counts of one metric.

    Attributes:
        trusted: intervals without caution.
        held: those of them that hold the true value.
        percentile: percentile intervals, of all test sets, that hold it.
        drawn: test sets on which the metric is defined.
    """

    trusted: int = 0
    held: int = 0
    percentile: int = 0
    drawn: int = 0

    @property
    def coverage(self) -> float | None:
        """Share of the trusted intervals that hold the true value; None where most are marked."""
        return self.held / self.trusted if self.trusted > FEWEST * self.drawn else None


def covered(kind: str, count: int, of: Population, *, repetitions: int, resamples: int) -> dict[str, Hits]:
    """Draw test sets and count the intervals that hold the true value, by metric."""
    known, names = truth(kind, replace(of, size=1)), KINDS[kind][1]
    hits = {name: Hits() for name in names}
    rng = np.random.default_rng([count, of.size, *f"{kind} {of.balance} {of.model}".encode()])
    metrics = metrics_named(names)
    for _ in range(repetitions):
        found = draw_test_set(rng, kind, count, of)
        ones = np.ones((1, len(found.ids)))
        values = {name: float(metric(found.columns, ones)[0]) for name, metric in metrics.items()}
        values = {name: value for name, value in values.items() if np.isfinite(value)}
        for name, (own, percentile) in _intervals(found, values, int(rng.integers(1 << 31)), resamples).items():
            hits[name].drawn += 1
            hits[name].trusted += own.caution is None
            hits[name].held += own.caution is None and _holds(own, known[name])
            hits[name].percentile += _holds(percentile, known[name])
    return hits


def _intervals(
    found: Predictions, values: dict[str, float], seed: int, resamples: int
) -> dict[str, tuple[Interval, Interval]]:
    mode = natural_mode(found)
    samples = resampled(found, metrics_named(values), Resampling(mode=mode, seed=seed, resamples=resamples))
    own = intervals_of(values, samples, found, mode=mode)
    return {name: (own[name], interval(values[name], samples[name])) for name in values}


def _holds(found: Interval, value: float) -> bool:
    return found.low is not None and found.high is not None and found.low - 1e-9 <= value <= found.high + 1e-9


def rows(kinds: Iterable[str], *, size: int, repetitions: int, resamples: int) -> Iterable[list[str]]:
    """Yield a row for each metric: its coverage by n and balance, then the lowest of percentile intervals."""
    for kind in kinds:
        cells: dict[str, list[str]] = {name: [] for name in KINDS[kind][1]}
        worst = dict.fromkeys(cells, 1.0)
        for count in SIZES[size]:
            for balance in BALANCES:
                began = time.monotonic()
                models = [
                    covered(
                        kind,
                        count,
                        Population(balance=balance, model=model, size=size),
                        repetitions=repetitions,
                        resamples=resamples,
                    )
                    for model in SKILL
                ]
                for name, own in cells.items():
                    shares = [model[name].coverage for model in models if model[name].coverage is not None]
                    own.append(_cell(min(shares, default=None), repetitions))
                    worst[name] = min(worst[name], *(model[name].percentile / model[name].drawn for model in models))
                print(f"{kind}, n = {count}, {balance}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        for name, own in cells.items():
            yield [kind, name, *own, f"{worst[name]:.3f}"]


def _cell(share: float | None, repetitions: int) -> str:
    """Return a coverage; with a sign where it is below LEAST by more than chance explains (one-sided, 5 %)."""
    if share is None:
        return "-"
    chance = 1.645 * math.sqrt(LEAST * (1 - LEAST) / repetitions)
    return f"{share:.3f}{' !' if share < LEAST - chance else ''}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    arguments = parser.parse_args()
    for size, title in ((1, "independent items"), (4, "clusters of four items")):
        heads = [f"{count:,} {balance}" for count in SIZES[size] for balance in BALANCES]
        print(f"\n| {title} | metric | {' | '.join(heads)} | percentile, lowest |")
        print("|---" * (len(heads) + 3) + "|")
        kinds = [kind for kind in arguments.kind or KINDS if size == 1 or kind != "survival"]
        for row in rows(kinds, size=size, repetitions=arguments.repetitions, resamples=arguments.resamples):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
