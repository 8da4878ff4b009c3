"""The templates' environment, and what all plots of the report share: an SVG with a title, a description and a table.

Every plot is drawn for the width of a small screen, so that its text stays readable there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.report.wording import FILTERS

HERE = Path(__file__).parent.parent

WIDTH = 340
"""Units of every drawing; a unit is about a pixel on a screen of 400."""


@functools.cache
def environment() -> Environment:
    """Return the environment of the templates: every text is escaped, an unknown name is an error."""
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= FILTERS
    return found


def _macro(name: str, *arguments: Any) -> Markup:
    return Markup(getattr(environment().get_template("macros.html").module, name)(*arguments))  # noqa: S704 - escaped


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
        description: what the drawing shows, for readers who do not see it.
        drawing: SVG elements within WIDTH by height.
        beside: show the table too, beside the drawing where there is room.
    """
    shapes = Markup().join(drawing)
    return _macro("figure", name, title, caption, description, WIDTH, f"{height:g}", shapes, table, beside)


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, class_: str | None = None) -> Markup:
    """Return a plain table in a region that scrolls by itself; the first cell of a row is its head."""
    return _macro("table", caption, heads, rows, class_)


def shape(name: str, text: str = "", **attributes: str | float) -> Markup:
    """Return an SVG element; ``class_`` is class, ``text_anchor`` is text-anchor, numbers have one decimal."""
    shown = {
        key: f"{value:.1f}" if isinstance(value, float) else escape(str(value)) for key, value in attributes.items()
    }
    inner = "".join(f' {key.rstrip("_").replace("_", "-")}="{value}"' for key, value in shown.items())
    return Markup(f"<{name}{inner}>{escape(text)}</{name}>")  # noqa: S704 - escaped above


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    """Return a line of a drawing."""
    return shape("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def words(x: float, y: float, text: str, *, class_: str = "label", anchor: str = "start") -> Markup:
    """Return a text of a drawing."""
    return shape("text", text, x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def points(places: Sequence[tuple[float, float]]) -> str:
    """Return the corners of a polygon as SVG writes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
