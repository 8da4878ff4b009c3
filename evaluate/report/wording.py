"""Numbers and names as the report prints them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from evaluate.metrics.bootstrap import Interval
from evaluate.metrics.paired_tests import Difference
from evaluate.metrics.registry import METRICS
from evaluate.results.record import Overlap, SeedValues
from store.errors import plain

LONGEST_LABEL = 30
"""Characters of a name in a drawing; tables have all."""


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a number with three decimals; a true minus sign in front of negative ones."""
    if value is None:
        return "–"
    return f"{value:+.3f}".replace("-", "−") if signed else f"{value:.3f}".replace("-", "−")


def with_interval(found: Interval | Difference, *, signed: bool = False) -> str:
    """Return a number and its interval; never the number alone."""
    if found.low is None:
        return f"{number(found.value, signed=signed)} [no interval: all {found.resamples:,} resamples failed]"
    ends = ", ".join(number(end, signed=signed) for end in (found.low, found.high))
    return f"{number(found.value, signed=signed)} [{ends}]"


def p_value(p: float | None, *, sign: bool = False) -> str:
    """Return a p-value as papers print it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if sign else f"{p:.3f}"


def seeds_spread(seeds: SeedValues | None) -> str:
    """Return the spread over training seeds as it follows a number; empty if there is none."""
    return "" if seeds is None or seeds.sd is None else f", seeds ± {seeds.sd:.3f}"


def short(text: str) -> str:
    """Return a name as it fits a drawing."""
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def in_words(task: str) -> str:
    """Return a task's name as a heading: ``linear_probe_16shot`` is Linear probe, 16 shots."""
    text = re.sub(r"_(\d+)pct$", r", \1 %", task)
    text = re.sub(r"_(\d+)shot$", lambda found: f", {found[1]} shot{'s' * (found[1] != '1')}", text)
    return text.replace("_", " ").capitalize()


def overlap_in_words(overlap: Overlap | None) -> str:
    """Return how many test images occur in a training corpus."""
    if overlap is None:
        return "not checked"
    if not overlap.exact + overlap.near:
        return f"none with {overlap.store}"
    return f"{overlap.exact:,} exact, {overlap.near:,} near in {overlap.store}"


def table_line(cells: Iterable[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
    return plain(" ".join(escaped.split()))


FILTERS = {
    "interval": lambda found: with_interval(found, signed=True),
    "left_out": lambda reason: f"left out: {reason}",
    "metric": lambda name: METRICS[name].title,
    "number": number,
    "overlap": overlap_in_words,
    "p_value": lambda p: p_value(p, sign=True),
    "words": in_words,
}
"""Filters of the templates."""
