"""When two texts are the same for a task."""

from __future__ import annotations

import re
import unicodedata

YES_NO = frozenset({"yes", "no"})
"""Answers, in lower case, of questions that count as closed where the dataset does not say which are."""


def normalised(text: str) -> str:
    """Return a text without case, punctuation and superfluous spaces."""
    kept = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold())
    return kept.strip()
