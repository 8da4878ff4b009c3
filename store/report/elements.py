"""The elements of pages: templates, tables, figures with a text alternative, and what a browser may do with a page.

A figure is drawn for the width of a small screen, so that its text stays readable there.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from store.errors import plain, shortened

HERE = Path(__file__).parent

WIDTH = 340
"""Units of every drawing; a unit is about a pixel on a screen of 400."""


@functools.cache
def environment(*folders: Path) -> Environment:
    """Return an environment with the templates of some folders and of this one, in which every text is escaped.

    Control letters of a text are written out.

    A name that a template does not know is an error.
    """
    found = Environment(
        loader=FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value, keep="\n") if type(value) is str else value,
    )
    found.filters["count"] = lambda value: f"{value:,}"
    found.filters["short"] = shortened
    return found


def base_style() -> str:
    """Return the style sheet that all pages share."""
    return (HERE / "base.css").read_text()


def policy(style: str, script: str = "") -> str:
    """Return what a browser may do with a page: show images that it holds, run its one script, and no more."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    scripts = f"; script-src 'sha256-{digest(script)}'" if script else ""
    allowed = f"img-src data:; style-src 'sha256-{digest(style)}'{scripts}"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _macro(name: str, *arguments: Any) -> Markup:
    return Markup(getattr(environment().get_template("elements.html").module, name)(*arguments))  # noqa: S704 - escaped


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
    width: float = WIDTH,
) -> Markup:
    """Return a plot with its text alternatives.

    Args:
        description: what the drawing shows, for readers who do not see it.
        drawing: SVG elements within width by height.
        beside: show the table too, beside the drawing where there is room.
    """
    shapes = Markup().join(drawing)
    return _macro("figure", name, title, caption, description, f"{width:g}", f"{height:g}", shapes, table, beside)


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, class_: str | None = None) -> Markup:
    """Return a plain table in a region that scrolls by itself; the first cell of a row is its head."""
    return _macro("table", caption, heads, rows, class_)
