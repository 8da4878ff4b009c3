"""Expands braces in paths and URLs as a shell does: ``{00000..00099}`` and ``{a,b}``."""

from __future__ import annotations

import re

from store.errors import CorpusError

RANGE = re.compile(r"(\d{1,99})\.\.(\d{1,99})(?:\.\.(\d{1,99}))?")

BRACES = re.compile(r"\{([^{}]*)\}")

MOST = 1_000_000
"""Names that one pattern may stand for."""


def expand_braces(pattern: str) -> list[str]:
    """Return every name that a pattern stands for, in order; itself if it has no braces with a range or a list.

    Raises:
        CorpusError: they are more than a million, or a range counts down.
    """
    done, waiting = [], [pattern]
    while waiting:
        text = waiting.pop()
        found = next((match for match in BRACES.finditer(text) if _is_choice(match[1])), None)
        if found is None:
            done.append(text)
        else:
            choices = _choices(found[1], pattern)
            waiting += [text[: found.start()] + choice + text[found.end() :] for choice in reversed(choices)]
        if len(done) + len(waiting) > MOST:
            raise CorpusError(f"{pattern!r} stands for more than {MOST} names")
    return list(dict.fromkeys(done))


def _is_choice(inside: str) -> bool:
    return "," in inside or RANGE.fullmatch(inside) is not None


def _choices(inside: str, pattern: str) -> list[str]:
    found = RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",")
    first, last, step = found[1], found[2], int(found[3] or 1)
    if int(last) < int(first) or not step:
        raise CorpusError(f"{pattern!r}: {{{inside}}} is empty; expected a range such as {{000..099}}")
    if (int(last) - int(first)) // step >= MOST:
        raise CorpusError(f"{pattern!r} stands for more than {MOST} names")
    width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1, step)]
