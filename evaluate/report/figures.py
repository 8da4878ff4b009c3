"""What all plots of the report share: an SVG with a title and a description, and a table that says the same.

Every plot is drawn for the width of a small screen, so that none is shrunk until its text cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .markup import Child, Markup, tag

WIDTH = 340
"""Units of every drawing; a unit is about a pixel on a screen of 400."""
LONGEST_LABEL = 30
"""Characters of a name in a drawing; tables have all."""


def figure(
    name: str,
    *,
    title: str,
    caption: str,
    description: str,
    height: float,
    drawing: Sequence[Markup],
    table: Markup,
    beside: bool = False,
) -> Markup:
    """Return a plot with its text alternatives.

    Args:
        name: unique on the page.
        caption: how to read it.
        description: what the drawing shows, for readers who do not see it.
        height: of the drawing, in its units.
        drawing: SVG elements within WIDTH by height.
        beside: show the table too, beside the drawing where there is room.
    """
    svg = tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        drawing,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    words = tag("figcaption", tag("strong", f"{title}."), " ", caption)
    numbers = tag("details", tag("summary", "The same as a table"), table, open=beside)
    return tag("figure", words, svg, numbers, class_="plot beside" if beside else "plot")


def table(
    caption: str, heads: Sequence[Child], rows: Sequence[Sequence[Child]], *, class_: str | None = None
) -> Markup:
    """Return a plain table in a region that scrolls by itself; the first cell of a row is its head."""
    head = tag("tr", [tag("th", cell, scope="col") for cell in heads])
    body = [tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]]) for row in rows]
    inner = tag("table", table_caption(caption), tag("thead", head), tag("tbody", body), class_=class_)
    return scrolling(inner, label=caption)


def table_caption(text: str) -> Markup:
    """Return a caption that stays on the screen while its table is scrolled."""
    return tag("caption", tag("span", text))


def scrolling(inner: Markup, *, label: str) -> Markup:
    """Return something wide in a region that scrolls sideways alone, by keyboard too."""
    return tag("div", inner, class_="scroll", role="region", aria_label=label, tabindex=0)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    """Return a line of a drawing."""
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_)


def words(x: float, y: float, text: str, *, class_: str = "label", anchor: str = "start") -> Markup:
    """Return a text of a drawing."""
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_, text_anchor=anchor)


def short(text: str) -> str:
    """Return a name as it fits a drawing."""
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def points(places: Sequence[tuple[float, float]]) -> str:
    """Return the corners of a polygon as SVG writes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def in_words(task: str) -> str:
    """Return a task's name as a heading: ``linear_probe_16shot`` is Linear probe, 16 shots."""
    text = re.sub(r"_(\d+)pct$", r", \1 %", task)
    text = re.sub(r"_(\d+)shot$", lambda found: f", {found[1]} shot{'s' * (found[1] != '1')}", text)
    return text.replace("_", " ").capitalize()
