"""Prints what a benchmark found, as Markdown on stdout."""

from __future__ import annotations

import math
from collections.abc import Iterable


def table(head: Iterable[str], rows: Iterable[Iterable[object]], *, title: str = "") -> None:
    """Print a table in Markdown, each row when it comes.

    Args:
        rows: cells; floats have three digits, large ones none behind the point, and None and NaN are empty.
        title: a line above the table.
    """
    head = list(head)
    print(f"\n{title}\n" if title else "")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(shown, row))} |", flush=True)
    print()


def shown(cell: object) -> str:
    """Return the text of a cell."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
