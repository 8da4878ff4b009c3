"""Fields of a record to columns of the pair table."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from store.corpus.fields import as_text, values_at
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.index.merge import read_corpus

RECORD = {
    "image_primary_label": ["Microscopy", "Plots and Charts"],
    "image_secondary_label": ["light microscopy", "immunohistochemistry"],
    "article_license": "CC BY",
    "article_accession_id": "PMC10968618",
    "image_set": [{"caption": "first"}, {"caption": "second"}, {"id": 3}],
    "image_size": [754, 357],
    "nothing": None,
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("article_license", ["CC BY"]),
        ("image_secondary_label", ["light microscopy", "immunohistochemistry"]),
        ("image_secondary_label.1", ["immunohistochemistry"]),
        ("image_secondary_label.7", []),
        ("image_set.caption", ["first", "second"]),
        ("image_set.0.caption", ["first"]),
        ("image_set.title", None),
        ("nothing", []),
        ("nothing.at.all", []),
        ("absent", None),
        ("article_license.name", None),
    ],
)
def test_a_path_leads_through_mappings_and_over_lists(path, expected):
    assert values_at(RECORD, path.split(".")) == expected


def test_a_column_may_have_dots_in_its_name():
    assert values_at({"a.b": 1, "a": {"b": 2}}, ["a", "b"]) == [1]


def test_text_is_what_arrow_can_hold():
    assert as_text("  \ud800 α ") == "? α"
    assert [as_text(value) for value in (3, 2.5, True, b"x ", {"no": "text"}, None)] == [
        "3",
        "2.5",
        "true",
        "x",
        None,
        None,
    ]


@pytest.fixture
def png(as_bytes):
    return as_bytes(Image.new("RGB", (9, 6), (1, 2, 3)))


@pytest.fixture
def biomedica(write_tar, png):
    """A tar whose records are like BIOMEDICA's."""
    second = {**RECORD, "image_secondary_label": ["plot"], "article_license": None}
    members = [("a.jpg", png), ("a.txt", b" a caption "), ("a.json", json.dumps(RECORD).encode())]
    members += [("b.jpg", png), ("b.txt", b"another"), ("b.json", json.dumps(second).encode())]
    return str(write_tar("0.tar", members))


def rows_of(*files, **settings):
    return read_corpus(Corpus.model_validate({"files": list(files), **settings})).table.to_pylist()


def test_fields_and_the_modality_map_fill_the_columns(biomedica):
    rows = rows_of(
        biomedica,
        fields={
            "modality": "json.image_secondary_label",
            "source": "json.article_accession_id",
            "license": "json.article_license",
        },
        modality_map={"Immunohistochemistry": "histopathology"},
    )
    assert [row["modality"] for row in rows] == ["histopathology", None]
    assert [row["license"] for row in rows] == ["CC BY", None]
    assert [row["source"] for row in rows] == ["PMC10968618"] * 2
    assert [row["caption"] for row in rows] == ["a caption", "another"]


def test_without_a_map_the_first_value_is_the_modality(biomedica):
    rows = rows_of(biomedica, fields={"modality": "json.image_secondary_label"})
    assert [row["modality"] for row in rows] == ["light microscopy", "plot"]


def test_each_caption_of_a_list_is_a_pair_of_the_same_image(biomedica):
    rows = rows_of(biomedica, fields={"caption": "json.image_set.caption"})
    assert [(row["key"], row["caption"]) for row in rows] == [
        ("a#1", "first"),
        ("a#2", "second"),
        ("b#1", "first"),
        ("b#2", "second"),
    ]
    assert rows[0]["member"] == rows[1]["member"] != rows[2]["member"]
    assert len({row["image_sha256"] for row in rows}) == 1
    assert [row["row"] for row in rows] == [0, 1, 2, 3]


def test_a_key_can_be_taken_from_the_record(write_tar, png):
    records = [json.dumps({"id": number}).encode() for number in (7, 8)]
    members = [("a.jpg", png), ("a.txt", b"t"), ("a.json", records[0])]
    members += [("b.jpg", png), ("b.txt", b"t"), ("b.json", records[1])]
    assert [row["key"] for row in rows_of(str(write_tar("0.tar", members)), fields={"key": "json.id"})] == ["7", "8"]


def test_a_field_that_no_record_has_is_named_with_the_nearest(biomedica):
    with pytest.raises(CorpusError) as caught:
        rows_of(biomedica, fields={"modality": "json.image_secondary_labels"})
    message = str(caught.value)
    assert message.startswith(f"{biomedica}: fields.modality: no record has 'json.image_secondary_labels'")
    assert "did you mean 'json.image_secondary_label'?" in message
    assert "ends with '?'" in caught.value.hint


def test_a_field_may_be_missing_if_that_is_said(biomedica):
    assert [row["split"] for row in rows_of(biomedica, fields={"split": "json.split?"})] == [None, None]


def test_a_column_that_a_table_lacks_is_named_before_any_row_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("image,text\nmissing.png,caption\n")
    with pytest.raises(
        CorpusError, match=r"fields\.caption: no record has 'txt'; did you mean 'text'\?; there are image"
    ):
        rows_of(str(tmp_path / "a.csv"), fields={"caption": "txt"})


def test_the_authors_index_of_images_and_their_json_files_is_read(tmp_path, png):
    """meta.jsonl of the MMKD-CLIP release: an image's path, a caption, and the path of BIOMEDICA's record."""
    (tmp_path / "a.jpg").write_bytes(png)
    (tmp_path / "a.json").write_text(json.dumps(RECORD))
    lines = [
        {"id": "x1", "imgpath": "a.jpg", "metapath": "a.json", "txt": "one"},
        {"id": "x2", "imgpath": "a.jpg", "metapath": "none.json", "txt": "two"},
    ]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = Corpus.model_validate(
        {
            "files": [str(tmp_path / "meta.jsonl")],
            "fields": {
                "key": "id",
                "image": "imgpath",
                "caption": "txt",
                "json_file": "metapath",
                "license": "json.article_license",
            },
        }
    )
    index = read_corpus(corpus)
    rows = index.table.to_pylist()
    assert [(row["key"], row["uri"], row["license"]) for row in rows] == [
        ("x1", "a.jpg", "CC BY"),
        ("x2", "a.jpg", None),
    ]
    assert index.account.passed["no JSON file"].count == 1
    assert index.account.passed["no JSON file"].first.startswith("meta.jsonl: x2: ")
    assert index.account.passed["no JSON file"].first.endswith("none.json: there is no such file")
