"""HTML and SVG as nested calls: a text is escaped because it is a text, not because someone thought of it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

VOID = frozenset({"br", "img", "link", "meta"})
"""Elements that have no end tag."""


class Markup(str):
    """A text that is HTML already; ``tag`` and ``raw`` alone make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
Attribute: TypeAlias = str | float | bool | None


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Return an element.

    Args:
        children: texts, which are escaped, elements, and lists of both; None is nothing.
        attributes: ``class_`` is class, ``aria_label`` is aria-label; True is a bare
            attribute, None and False are none.
    """
    shown = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{_inner(children)}</{name}>")


def raw(text: str) -> Markup:
    """Return a text of our own that is HTML, CSS or script as it stands; never one from outside."""
    return Markup(text)


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def _inner(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int):
        return escape(str(child))
    return "".join(_inner(one) for one in child)
