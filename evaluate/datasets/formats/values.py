"""Numbers and words in the cells of tables."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from store.errors import EvaluationError

MISSING = frozenset({"", "?", "na", "n/a", "nan", "none", "null"})
"""Texts, in lower case, that stand for a missing value."""


def is_missing(text: str) -> bool:
    """Return whether a text stands for a missing value."""
    return text.strip().lower() in MISSING


def number(text: str, where: str) -> float:
    """Return the number of a cell, NaN where it is missing; raise EvaluationError where it is something else."""
    if is_missing(text):
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise EvaluationError(f"{where}: expected a number, got {text!r}") from None


def band(value: float, bounds: Sequence[float]) -> str:
    """Return the name of the range that a number is in: ``<40``, ``40-60`` or ``>=60`` of the bounds 40 and 60."""
    place = bisect.bisect_right(bounds, value)
    if place == 0:
        return f"<{bounds[0]:g}"
    return f">={bounds[-1]:g}" if place == len(bounds) else f"{bounds[place - 1]:g}-{bounds[place]:g}"
