"""Elements of drawings as SVG; every text in them is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup


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
