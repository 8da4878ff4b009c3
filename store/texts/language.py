"""Tells whether a caption is English, without a model."""

from __future__ import annotations

import re
from collections.abc import Mapping

LATIN_SHARE = 0.9
"""Letters that must be Latin; Greek ones (α, μ) are common in English captions, and few."""

MIN_WORDS = 8
"""Shorter captions are judged by their letters alone: a title such as ``Axial T2 image`` has no function words."""

_WORD = re.compile(r"[^\W\d_]+")

_FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and in to with for is was were are by from at on this that which as an after before no not",
        "es": "el la los las de del y en con para por se que una un al es fue como su sin entre más no",
        "pt": "o a os as de do da dos das e em com para por se que uma um ao é foi como sem entre mais na no não",
        "fr": "le la les de du des et en avec pour par se que une un au aux est était dans sur sans entre ce cette",
        "it": "il lo la gli le di del della e in con per da si che una un al è era nel come senza tra più non",
        "de": "der die das den dem des und in mit für von zu ist war im am auf ein eine einer nach bei nicht zwischen",
        "nl": "de het een en van in met voor is was op te aan bij naar niet tussen door uit zijn deze dat",
    }.items()
}


def is_english(caption: str) -> bool:
    """Return whether a caption looks English, by its letters and function words, without a model.

    This was preferred to a library because captions are short and full of names and numbers, on which n-gram models
    guess, and because it gives the same answer everywhere.

    Nine tenths of its letters must be Latin, and of eight words or more no other language that is listed here may
    have more function words among them than English has. Without letters a caption is not English.
    """
    letters = [letter for letter in caption if letter.isalpha()]
    if not letters or sum(map(_is_latin, letters)) < LATIN_SHARE * len(letters):
        return False
    words = [word.lower() for word in _WORD.findall(caption)]
    if len(words) < MIN_WORDS:
        return True
    counts = {
        language: sum(word in function_words for word in words) for language, function_words in _FUNCTION_WORDS.items()
    }
    return counts["en"] >= max(counts.values())


def _is_latin(letter: str) -> bool:
    # Basic Latin to Latin Extended-B, and Latin Extended Additional.
    return letter <= "\u024f" or "\u1e00" <= letter <= "\u1eff"
