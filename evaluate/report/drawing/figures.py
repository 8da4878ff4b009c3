"""The templates' environment, and what all plots of the report share: an SVG with a title, a description and a table.

Every plot is drawn for the width of a small screen, so that its text stays readable there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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
