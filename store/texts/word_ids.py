"""Keeps the token ids of words, because captions consist of few different words.

Ids are kept and joined as bytes, which takes a tenth of the time of lists of Python numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

IdBytes = bytes
"""Token ids, int64 in the machine's byte order."""

ID_BYTES = 8
"""Bytes of an id."""

MOST_WORDS = 1 << 17
"""Words that are kept, about 30 MB; with one more all are forgotten."""

MOST_LETTERS = 64
"""Letters of a word that is kept."""


def id_bytes(ids: Sequence[int]) -> IdBytes:
    """Return token ids as bytes."""
    return np.array(ids, np.int64).tobytes()


class WordIds:
    """Token ids of texts, word by word. Threads may share it.

    It is for tokenizers that read the words between white space independently of each other.

    Args:
        ids_of: returns the ids of each of some texts.
        only: texts that do not match as a whole are not cut into words.
    """

    def __init__(self, ids_of: Callable[[list[str]], list[IdBytes]], *, only: re.Pattern[str] | None = None) -> None:
        self._ids_of, self._only = ids_of, only
        self._kept: dict[str, IdBytes] = {}

    def __call__(self, texts: Sequence[str]) -> list[IdBytes]:
        """Return the ids of each text."""
        cut = [text.split() if not self._only or self._only.fullmatch(text) else [text] for text in texts]
        kept = self._kept
        # Another thread may begin anew meanwhile: this table has all that this call needs.
        words = set[str]().union(*cut)
        table = {word: ids for word in words if (ids := kept.get(word)) is not None}
        new = list(words - table.keys())
        if new:
            table.update(zip(new, self._ids_of(new), strict=True))
            if len(kept) + len(new) > MOST_WORDS:
                self._kept = kept = {}
            kept.update((word, table[word]) for word in new if len(word) <= MOST_LETTERS)
        return [b"".join([table[word] for word in text]) for text in cut]
