"""The bounded tokenizer gives the original's tokens, also of words that the original cannot finish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from extract.teachers.open_clip_model import BoundedTokenizer
from store.texts.bpe import CACHED_LETTERS


@pytest.fixture(scope="module")
def tokenizers():
    return SimpleTokenizer(), BoundedTokenizer()


SYLLABLES = [
    "a",
    "aa",
    "the",
    "card",
    "io",
    "my",
    "opathy",
    "pneumo",
    "thorax",
    "\u00f6",
    "\u03b2",
    "\u7532",
    "x",
    "ing",
]


def long_words():
    rng = np.random.default_rng(0)
    words = ["a" * 201, "ab" * 150, "aab" * 200, "-" * 600, "\u00e9" * 300, "lungs" * 80, "e" * 599 + "d"]
    for length in (200, 400, 600):
        words.append("".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz"], length)))
        words.append("".join(rng.choice([*"aaeinst"], length)))
        words.append("".join(rng.choice(SYLLABLES, length // 2)))
    return words


@pytest.mark.parametrize("number", range(len(long_words())))
def test_a_word_of_hundreds_of_letters_has_the_originals_tokens(tokenizers, number):
    word = long_words()[number]
    original, bounded = tokenizers
    encoded = "".join(original.byte_encoder[byte] for byte in word.lower().encode())
    assert bounded.bpe(encoded) == original.bpe(encoded)
    for text in (word, f"chest x-ray {word} of 3 cm", f"{word} {word}"):
        assert torch.equal(bounded([text]), original([text]))


def test_ordinary_captions_have_the_originals_tokens(tokenizers):
    original, bounded = tokenizers
    rng = np.random.default_rng(1)
    captions = [" ".join(rng.choice([*SYLLABLES, "HER2+,", "3.5", "it's", "<5", "&gt;"], 30)) for _ in range(300)]
    captions += ["", "<start_of_text> x <end_of_text>", "don't   SHOUT\n\tcm\u00b2", "chest x-ray " * 200]
    assert torch.equal(bounded(captions), original(captions))
    for caption in captions:
        whole = original.encode(caption)
        assert bounded.encode(caption)[:77] == whole[:77]
        assert (len(bounded.encode(caption)) > 75) == (len(whole) > 75)


def test_words_of_any_length_are_cut_as_the_original_cuts_and_not_remembered(tokenizers):
    _, bounded = tokenizers
    known = len(bounded.cache)
    for letter in ("a", "xq", "\u00e9"):
        ids_BL = bounded([letter * 200_000, letter * 2_000])
        assert torch.equal(ids_BL[0], ids_BL[1])
        assert ids_BL[0, -1] == bounded.eot_token_id
    assert len(bounded.cache) == known
    bounded(["b" * CACHED_LETTERS])
    assert len(bounded.cache) == known + 1
