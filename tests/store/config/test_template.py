"""Texts with values of a record in them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from store.config.template import parse_template
from store.corpus.fields import FieldReader, Fields
from store.errors import CorpusError

RECORD = {
    "subject": 10000032,
    "study": "504",
    "labels": ["a", "b"],
    "empty": None,
    "image": {"id": 7},
    "a.b": "dotted",
    "f": 7.0,
    "g": 7.5,
}


def filled(text, record=RECORD):
    return FieldReader("t.csv", Fields(caption=text), {}).text(record, "caption")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("images/{study}.jpg", "images/504.jpg"),
        ("p{subject:.2}/p{subject}/s{study}.jpg", "p10/p10000032/s504.jpg"),
        ("{study:0>12}", "000000000504"),
        ("{image.id}", "7"),
        ("{a.b}", "dotted"),
        ("a {{b}} {study}", "a {b} 504"),
        ("{labels}", "a, b"),
        ("{labels.1}", "b"),
        ("{f}.jpg {g}", "7.jpg 7.5"),
        ("{study}{empty?} {none?}", "504"),
        ("{study}{empty}", None),
    ],
)
def test_braces_are_filled_with_values(template, text):
    assert filled(template) == text


@pytest.mark.parametrize("template", ["{", "}", "{}", "{a!r}", "{a:d}", "{a:>99999999}", "{a:{b}}", "x{a", "a}}}"])
def test_a_template_that_is_not_understood_is_refused_with_the_pipeline(template):
    with pytest.raises(ValidationError):
        Fields(image=template)


def test_a_template_names_its_columns():
    assert parse_template("{a}/{b.c:.2}{d?}").paths == ["a", "b.c", "d?"]


def test_a_column_that_is_not_there_is_an_error_before_any_row():
    reader = FieldReader("t.csv", Fields(image="images/{imageid}.jpg"), {})
    assert reader.names() == {"imageid"}
    with pytest.raises(CorpusError, match=r"t\.csv: fields\.image: no record has 'imageid'; did you mean 'image_id'"):
        reader.require(["image_id", "caption"])
    reader.note({"image_id": 1})
    with pytest.raises(CorpusError, match="no record has 'imageid'"):
        reader.finish()
