"""Texts without a word are no captions, and control characters are left out of captions."""

from __future__ import annotations

import pytest

from store.texts.captions import CONTROLS, MISSING_VALUE, SURROGATES, WITHOUT_WORD, Caption, clean_caption

KEPT = [
    *(
        "chest x-ray",
        "CT",
        "7",
        "HER2+",
        "\u80f8\u90e8X\u7ebf",
        "\u0e01\u0e23\u0e30",
        "\u03b2",
        "\u00b2",
    ),
    *("line one\nline two", "a\tb", "a\r\nb", "don't (see fig. 3)", "nullipara", "nan cells", "None", "man\u0303ana"),
    *("\u0915\u094d\u200d\u0937", "soft\u00adhyphen", "\u0661\u0662"),
]


@pytest.mark.parametrize("text", KEPT)
def test_a_caption_with_a_word_is_left_as_it_is(text):
    assert clean_caption(text) == Caption(text=text)


@pytest.mark.parametrize(
    "text",
    [
        "\u200b\u200b",
        "\u200d",
        "\u00ad",
        "...",
        "-",
        "?!",
        "\u2014",
        "()",
        "\u3164",
        "\u2800",
        "\u0301",
        "\U0001f600",
        "+",
        "_",
    ],
)
def test_what_has_no_letter_or_digit_is_no_caption(text):
    assert clean_caption(text) == Caption(text=None, passed=WITHOUT_WORD)


@pytest.mark.parametrize("text", ["nan", "NaN", "null", "NULL", "<NA>"])
def test_the_mark_of_a_missing_value_is_no_caption(text):
    assert clean_caption(text) == Caption(text=None, passed=MISSING_VALUE)


def test_none_and_nothing_stay_what_they_are():
    assert clean_caption(None) == Caption(text=None)
    assert clean_caption("") == Caption(text="")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\ufeffchest", "chest"),
        ("chest\ufeff x-ray", "chest x-ray"),
        ("che\0st", "chest"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("a\x7fb\x9fc", "abc"),
        ("page one\x0cpage two\x0bthree\u2028four\x85five", "page one page two three four five"),
        ("\0chest \0", "chest"),
    ],
)
def test_control_characters_go_and_those_that_separate_become_spaces(text, wanted):
    assert clean_caption(text) == Caption(text=wanted, changed=(CONTROLS,))


def test_half_surrogate_pairs_go_and_whole_ones_stay():
    assert clean_caption("ct \ud83d scan") == Caption(text="ct  scan", changed=(SURROGATES,))
    assert clean_caption("ct \U0001f600") == Caption(text="ct \U0001f600")
    clean_caption("\udc80x").text.encode()


def test_only_controls_is_empty_and_counted_as_changed():
    assert clean_caption("\0\0\ufeff") == Caption(text="", changed=(CONTROLS,))
    assert clean_caption("\ufeff...") == Caption(text=None, changed=(CONTROLS,), passed=WITHOUT_WORD)
