"""Ids of words that are kept are those of a text read as a whole, whatever was read before."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from store.texts import word_ids
from store.texts.word_ids import WordIds, id_bytes

TEXTS = ["the lung of the left", "  the\tlung ", "", "a" * 100_000, "left", "\u00e9t\u00e9 lung"]


def letters(asked):
    """Return a function that gives each letter its code point as id, white space none, and notes what it was asked."""

    def ids_of(texts):
        asked.extend(texts)
        return [id_bytes([ord(letter) for letter in text if not letter.isspace()]) for text in texts]

    return ids_of


def test_ids_are_those_of_whole_texts_and_a_word_is_asked_for_once():
    asked = []
    ids = WordIds(letters(asked))
    for _ in range(2):
        assert ids(TEXTS) == letters([])(TEXTS)
    assert sorted(asked) == sorted(["the", "lung", "of", "left", "\u00e9t\u00e9", *["a" * 100_000] * 2])
    assert np.frombuffer(ids(["of"])[0], np.int64).tolist() == [111, 102]


def test_texts_that_do_not_match_are_read_as_a_whole():
    asked = []
    assert WordIds(letters(asked), only=re.compile("[ -~]*"))(TEXTS[-2:]) == letters([])(TEXTS[-2:])
    assert sorted(asked) == ["left", "\u00e9t\u00e9 lung"]


def test_no_more_words_are_kept_than_stated(monkeypatch):
    monkeypatch.setattr(word_ids, "MOST_WORDS", 10)
    asked, drawn = [], [[str(number) for number in range(first, first + 6)] for first in (0, 3, 6, 0)]
    ids = WordIds(letters(asked))
    for words in drawn:
        assert ids([" ".join(words)]) == letters([])([" ".join(words)])
        assert len(ids._kept) <= 10
    assert len(asked) > len(set(asked))


@pytest.mark.parametrize("most", [3, 1 << 17])
def test_threads_share_it(monkeypatch, most):
    monkeypatch.setattr(word_ids, "MOST_WORDS", most)
    ids = WordIds(letters([]))
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 40, 5))) for _ in range(800)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: ids([text])[0], texts))
    assert found == letters([])(texts)
