"""Signs make texts different; case, spaces and harmless punctuation do not."""

from __future__ import annotations

import pytest

from evaluate.tasks.texts import normalised

DIFFERENT = [
    ("HER2+", "HER2-"),
    ("HER2+", "HER2"),
    ("HER2-", "HER2"),
    ("her2+ tumour", "her2- tumour"),
    ("CD8+ T cells", "CD8- T cells"),
    ("CD8\u207a", "CD8\u207b"),
    ("CD4+CD8-", "CD4-CD8+"),
    ("ER+/PR-", "ER-/PR+"),
    ("ER- and PR+", "ER+ and PR+"),
    ("(HER2 (+))", "(HER2 (-))"),
    ("HER2\u2013 tumour", "HER2 tumour"),
    (">5 cm", "<5 cm"),
    (">5 cm", "5 cm"),
    ("\u22655 cm", "\u22645 cm"),
    (">=5 cm", ">5 cm"),
    ("\u22655", ">5"),
    ("-5 degrees", "5 degrees"),
    ("-5 degrees", "+5 degrees"),
    ("+ve", "-ve"),
    ("5 \u00b1 2", "5 + 2"),
    ("50%", "50"),
    ("\u2191 T2 signal", "\u2193 T2 signal"),
    ("p \u2260 0", "p 0"),
    ("1.5 cm", "15 cm"),
]

EQUAL = [
    ("HER2+", "her2 +"),
    ("HER2-", "HER2\u2212"),
    ("HER2 (+).", "HER2+"),
    ("\u22655 cm", ">= 5 cm"),
    ("=>5 cm", "\u2265 5cm".replace("5cm", "5 cm")),
    ("<=5", "\u2264 5"),
    ("+/- 2", "\u00b12"),
    ("x-ray", "X ray"),
    ("chest x\u2010ray.", "Chest x-ray"),
    ("3-5 cm", "3\u20135 cm"),
    ("L4-L5", "l4 l5"),
    ("T1- and T2-weighted", "T1 and T2 weighted"),
    ("pre- and post-contrast", "pre and post contrast"),
    ("- normal", "normal"),
    ("finding - normal", "Finding: normal"),
    ("normal -> mass", "normal mass"),
    ("normal<br>heart", "normal br heart"),
    ("Yes.", "yes"),
    ("left, lower lobe", "Left lower  lobe!"),
    ("snake_case", "snake case"),
    ("ﬁnding", "finding"),
    ("don't", "don t"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_a_sign_makes_another_text(one, other):
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_harmless_punctuation_and_other_spellings_make_the_same_text(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize("text", sorted({text for pair in (*DIFFERENT, *EQUAL) for text in pair}))
def test_a_normalised_text_stays_as_it_is(text):
    assert normalised(normalised(text)) == normalised(text)


def test_punctuation_alone_is_empty_and_a_sign_alone_is_not():
    assert [normalised(text) for text in ("...", "- -", "?", "_", "\u2014")] == [""] * 5
    assert normalised("+") == "+"
    assert normalised("(-)") == "\u2212"
