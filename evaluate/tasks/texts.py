"""When two texts count as the same."""

from __future__ import annotations

import re
import unicodedata


def normalised(text: str) -> str:
    """Return a text without case, punctuation and superfluous spaces."""
    kept = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold())
    return kept.strip()
