"""Texts with the values of a record in them, such as ``images/{image_id}.jpg``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter

PADDING = re.compile(r"(?:.?[<>^]\d{1,3})?(?:\.\d{1,3})?")
"""Formats that may follow a colon, of those that Python has for a text: padding and a number of letters."""


@dataclass(frozen=True, slots=True)
class Template:
    """A text with holes.

    Attributes:
        parts: text before each hole, the hole's dotted path (None behind the last one) and its format.
    """

    parts: tuple[tuple[str, str | None, str], ...]

    @property
    def paths(self) -> list[str]:
        """The dotted paths of the holes, as written."""
        return [path for _, path, _ in self.parts if path is not None]

    def fill(self, text_at: Callable[[str], str | None]) -> str | None:
        """Return the text for a record, None if it has no value for a hole or is empty.

        Args:
            text_at: returns the record's text at a dotted path. The hole of a path that ends with ``?`` may stay empty.
        """
        filled = []
        for before, path, spec in self.parts:
            filled.append(before)
            if path is not None:
                value = text_at(path)
                if value is None and not path.endswith("?"):
                    return None
                filled.append(format(value or "", spec))
        return "".join(filled).strip() or None


def is_template(text: str) -> bool:
    """Return whether a field's path is a template: it has braces."""
    return "{" in text or "}" in text


def parse_template(text: str) -> Template:
    """Return a template; a brace that is to stay is written twice.

    Raises:
        ValueError: braces do not match, or a hole has another format than padding and a number of letters.
    """
    parts = []
    for before, path, spec, conversion in Formatter().parse(text):
        if path is not None and (not path or conversion or not PADDING.fullmatch(spec or "")):
            written = path + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(
                f"{{{written}}} is not understood; expected {{COLUMN}}, {{COLUMN:.2}} (its first two letters) or "
                "{COLUMN:0>12} (zeros before it)"
            )
        parts.append((before, path, spec or ""))
    return Template(tuple(parts))
