"""Says when two texts count as one: harmless punctuation is ignored, signs are not."""

from __future__ import annotations

import functools
import re
import unicodedata

RULE = 2
"""Number of the rule; a result that compares texts is outdated when it changes. By rule 1 signs were punctuation."""

SIGNS = "+\u2212<>\u2264\u2265\u2260\u00b1%\u2191\u2193"
"""Plus, minus, comparisons, plus-minus, per cent, up and down: without them HER2+ is HER2-, and >5 cm is <5 cm."""

SPELLINGS = (
    (r"[\u2266\u2a7d]|<=|=<", "\u2264"),
    (r"[\u2267\u2a7e]|>=|=>(?=\s*\d)", "\u2265"),
    (r"</?([A-Za-z]\w*)\s*/?>", r" \1 "),  # a tag's brackets are no comparison
    (r"-+>|=>|<-+(?![\d-])", " "),  # nor is an arrow
    (r"\+\s?/\s?[-\u2212]|\+[-\u2212]", "\u00b1"),
)
"""Patterns, in order, and what each becomes."""

HYPHENS = re.compile("[\u2010\u2011\u2012\u2013]")

MINUS = re.compile(
    r"""
    \(\s*-\s*\)                          # (-)
    | (?<![\w)\].%-])-(?=\.?\d|ve\b)      # -5, -ve
    | (?<=\d)-(?=CD\d)                   # CD4-CD8+
    | (?:(?<=\d)|(?<=\d[A-Za-z])|(?<=\b[A-Z])|(?<=\b[A-Z]{2})|(?<=\b[A-Z]{3})|(?<=\b[A-Z]{4})|(?<=\b\w{2}))
      -(?=$|[\s,;:/)\].+<>])               # HER2-, ER-, er-
      (?!\s*(?:and|or|to|,|/)\s*\w+-\w)   # but T1- and T2-weighted
    """,
    re.VERBOSE,
)
"""A hyphen that is a minus: before a number, in brackets, or at the end of a marker's name; x-ray and 3-5 have none."""


@functools.lru_cache(maxsize=2**16)
def normalised(text: str) -> str:
    """Return a text as it is compared with others: without case, punctuation and superfluous spaces, but with signs.

    Signs are words of their own: ``HER2 +`` and ``HER2+`` are one text.
    """
    found = HYPHENS.sub("-", unicodedata.normalize("NFKC", text))
    for pattern, spelling in SPELLINGS:
        found = re.sub(pattern, spelling, found)
    found = MINUS.sub(" \u2212 ", found).casefold()
    found = re.sub(rf"[^\w{SIGNS}]|_", " ", found)
    return " ".join(re.sub(rf"([{SIGNS}])", r" \1 ", found).split())
