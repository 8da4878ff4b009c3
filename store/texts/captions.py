"""A caption as a teacher may read it: without invisible control characters, and with a word in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

WITHOUT_WORD = "caption without a letter or digit"
MISSING_VALUE = "caption that is only the mark of a missing value (nan, null)"
CONTROLS = "control characters of a caption are left out"
SURROGATES = "half surrogate pairs of a caption are left out"

MISSING = frozenset({"nan", "null", "<na>"})
"""Texts that other programs write where there is none."""

_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
"""Controls that separate lines or records. Line feed, carriage return and tab stay: every tokenizer reads a space."""

_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
"""Other controls, and byte order marks. BERT's tokenizers and ftfy drop them; CLIP's of transformers reads noise."""

BLANK_LETTERS = frozenset("\u115f\u1160\u3164\uffa0")
"""Hangul fillers: letters by their category, which show nothing."""

_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(kw_only=True, frozen=True, slots=True)
class Caption:
    """A caption after cleaning.

    Attributes:
        text: None where there is no caption.
        changed: what was altered in it, as fixed texts.
        passed: why what was there is no caption, as a fixed text.
    """

    text: str | None
    changed: tuple[str, ...] = ()
    passed: str | None = None


def clean_caption(text: str | None) -> Caption:
    """Return a caption without control characters, and why it is none where it has no letter and no digit.

    Nothing else is altered: case, punctuation, accents and joiners are the tokenizer's business.
    """
    if text is None or (text.isascii() and text.isprintable() and has_word(text) and text.casefold() not in MISSING):
        return Caption(text=text)
    changed = []
    for reason, pattern in ((SURROGATES, _SURROGATES), (CONTROLS, _CONTROLS)):
        if pattern.search(text):
            changed.append(reason)
            text = pattern.sub("", text)
    if _SEPARATORS.search(text):
        changed.append(CONTROLS)
        text = _SEPARATORS.sub(" ", text)
    text = text.strip()
    passed: str | None = None
    if text and not has_word(text):
        passed = WITHOUT_WORD
    elif text.casefold() in MISSING:
        passed = MISSING_VALUE
    return Caption(text=None if passed else text, changed=tuple(dict.fromkeys(changed)), passed=passed)


def has_word(text: str) -> bool:
    """Return whether a text has a letter or digit of any script."""
    return any(letter.isalnum() and letter not in BLANK_LETTERS for letter in text)
