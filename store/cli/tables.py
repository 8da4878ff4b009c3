"""Tables for a terminal of any width: no name, digest or path is cut or broken, and equal columns are one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from store.console import say
from store.errors import printable

PIPE_WIDTH = 160
"""Width where stdout is no terminal and COLUMNS is not set."""

GAP = "  "

QUIET = ("0", "-")
"""Values that say that there is nothing."""

WRONG = ("missing", "bad", "damaged")
"""Columns of which a value that is not zero stands out."""

T = TypeVar("T")


def terminal() -> Console:
    """Return a console for stdout, which breaks no line."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else PIPE_WIDTH, highlight=False, soft_wrap=True)


def print_teachers(teachers: Mapping[str, T], describe: Callable[[T], Mapping[str, object]]) -> None:
    """Print a line per teacher; see `print_table`.

    Args:
        describe: returns a teacher's values by column.
    """
    rows = [describe(teacher) for teacher in teachers.values()]
    if rows:
        cells = [[name, *row.values()] for name, row in zip(teachers, rows, strict=True)]
        print_table(["teacher", *rows[0]], cells, of="teachers")


def print_next(steps: Sequence[str]) -> None:
    """Print the commands that are useful next."""
    say(*(f"next: {step}" for step in steps))


def print_table(names: Sequence[str], rows: Sequence[Sequence[object]], *, of: str = "") -> None:
    """Print rows in as many columns side by side as there is room for; the others follow, with the first one again.

    A value that no line has room for stands behind its row's first value, in a line of its own.

    Args:
        of: what the rows are, in the plural; then a column whose values are all the same becomes a line above.
    """
    console = terminal()
    cells = [[printable(str(value)) for value in row] for row in rows]
    columns = range(1, len(names))
    same = [n for n in columns if of and len(cells) > 1 and len({row[n] for row in cells}) == 1]
    same = same if len(same) < len(columns) else []
    for n in same:
        console.print(Text(f"{names[n]}: {cells[0][n]} (the same for all {of})"))
    widths = [max(cell_len(text) for text in (name, *(row[n] for row in cells))) for n, name in enumerate(names)]
    room = console.width - widths[0]
    for group in _groups([n for n in columns if n not in same], widths, room):
        if widths[group[0]] + len(GAP) > room:
            for row in cells:
                console.print(Text(f"{row[0]}{GAP}{names[group[0]]}: {row[group[0]]}"))
            continue
        shown = (0, *group)
        flush_right = {n for n in group if all(_is_number(row[n]) for row in cells)}
        console.print(_line(names, ["bold"] * len(names), shown, widths, flush_right))
        for row in cells:
            styles = [_style(text, name) for text, name in zip(row, names, strict=True)]
            console.print(_line(row, styles, shown, widths, flush_right))


def _line(
    texts: Sequence[str],
    styles: Sequence[str],
    shown: Sequence[int],
    widths: Sequence[int],
    flush_right: Collection[int],
) -> Text:
    line = Text()
    for n in shown:
        space = " " * (widths[n] - cell_len(texts[n]))
        line.append(space if n in flush_right else "")
        line.append(texts[n], style=styles[n])
        line.append(("" if n in flush_right else space) + GAP)
    line.rstrip()
    return line


def _groups(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    """Return columns that fit side by side; one that does not fit at all is alone."""
    groups: list[list[int]] = []
    left = 0
    for n in columns:
        needed = widths[n] + len(GAP)
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(n)
        left -= needed
    return groups


def _is_number(text: str) -> bool:
    return text in QUIET or text.strip("-+%").replace(",", "").replace(".", "").isdigit()


def _style(text: str, name: str) -> str:
    if text in QUIET:
        return "dim"
    return "bold red" if name in WRONG else ""
