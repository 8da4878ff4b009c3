"""JSON lines, lists, documents and COCO captions, with their bounds."""

from __future__ import annotations

import json

import pytest

from store.corpus.corpus_files import as_corpus_file
from store.errors import CorpusError
from store.layouts.records import json_records
from store.layouts.records.json_records import NestedTooDeepError, parse_json
from store.layouts.tables import read_records

DEEP = "[" * 100_000 + "]" * 100_000
RECORDS = [{"image": f"{number}.png", "caption": f"c{number}"} for number in range(6)]


def lines(*records):
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def captions(rows):
    return [row["caption"] for row in rows]


def test_one_deep_line_ends_nothing_but_itself(index):
    deep = '{"image": "1.png", "caption": "c1", "x": ' + DEEP + "}"
    lists = '{"image": "2.png", "caption": "c2", "x": ' + "[" * 500 + "]" * 500 + "}"
    account, rows, _ = index({"a.jsonl": lines(RECORDS[0], deep, lists, RECORDS[3])})
    assert captions(rows) == ["c0", "c3"]
    found = account.passed["a JSON record is nested too deep"]
    assert (found.count, found.first.partition("a.jsonl")[2]) == (2, ":2: nested more than 100 deep")


def test_a_number_of_five_thousand_digits_is_a_text(index):
    record = '{"image": "0.png", "caption": "c0", "id": ' + "7" * 5000 + "}"
    for name, content in (("a.jsonl", lines(record, RECORDS[1])), ("a.json", f"[{record}, {json.dumps(RECORDS[1])}]")):
        _, rows, _ = index({name: content})
        assert captions(rows) == ["c0", "c1"]
        assert rows[0]["key"] == "7" * 5000


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_no_caption(index, number):
    _, rows, _ = index({"a.jsonl": lines('{"image": "0.png", "caption": ' + number + "}", RECORDS[1])})
    assert captions(rows) == [None, "c1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(RECORDS[0], '{"image": "1.p'), r"a\.jsonl:2: not a line of JSON"),
        (lines(RECORDS[0], "7"), r"a\.jsonl:2: expected a JSON object on each line"),
        (lines(RECORDS[0], "{} {}"), r"a\.jsonl:2: not a line of JSON: Extra data"),
        (b'{"image": "0.png", "caption": "\xff"}\n', r"a\.jsonl:1: byte 0xff is not UTF-8"),
        (lines(RECORDS[0]).encode("utf-16"), r"a\.jsonl:1: begins with the byte order mark of UTF-16"),
    ],
)
def test_a_damaged_line_is_an_error_with_its_number(index, content, message):
    with pytest.raises(CorpusError, match=message):
        index({"a.jsonl": content})


def test_a_list_is_read_in_parts(index, monkeypatch):
    monkeypatch.setattr(json_records, "BLOCK_LETTERS", 7)
    for written in (json.dumps(RECORDS), json.dumps(RECORDS, indent=1), " \n" + json.dumps(RECORDS) + "\n "):
        assert captions(index({"a.json": written})[1]) == [f"c{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"a": 1},\n{"a" 2}]', r"a\.json:3: not JSON: .* in item 1 of the list"),
        ('[{"a": 1} {"a": 2}]', r"a\.json:1: not JSON: expected a comma or the end of the list"),
        ('[{"a": 1},', r"a\.json:1: not JSON"),
        ('[{"a": 1}', r"a\.json:1: not JSON"),
        ("[\n1]", r"a\.json:2: item 0 of the list is no object"),
        ('[{"a": 1}]\n{}', r"a\.json: something follows the end of the list"),
        (f'[{{"a": 1}},\n{DEEP}]', r"a\.json:2: item 1 of the list is nested more than 100 deep"),
        (DEEP, "nested more than 100 deep"),
        ('{"a": ' + DEEP + "}", "nested more than 100 deep"),
        (
            '{"data": [{"a": 1}], "version": 2}',
            r"expected a list of objects; there are 'data' \(list\), 'version' \(int\)",
        ),
        ("7", "expected a list of objects"),
        ("", "not JSON"),
        ("{", r"a\.json:1:2: not JSON"),
    ],
)
def test_a_document_that_is_no_list_of_objects_is_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(read_records(as_corpus_file(tmp_path / "a.json"), "json"))


def test_the_hint_tells_what_the_document_looks_like(index):
    for content, hint in (
        (lines(*RECORDS), "format: jsonl"),
        (json.dumps({"images": [], "annotations": []}), "format: coco"),
        (json.dumps({"data": RECORDS}), "records: PATH"),
    ):
        with pytest.raises(CorpusError) as caught:
            index({"a.json": content})
        assert hint in caught.value.hint


def test_records_lie_at_paths_of_a_document(index):
    document = json.dumps({"train": RECORDS[:2], "more": {"val": RECORDS[2:3]}, "version": 1})
    assert captions(index({"a.json": document}, records=["train", "more.val"])[1]) == ["c0", "c1", "c2"]
    assert captions(index({"a.json": document}, records="train")[1]) == ["c0", "c1"]
    with pytest.raises(CorpusError, match=r"records: there is no 'test'; there are 'train' \(list\)"):
        index({"a.json": document}, records="test")
    with pytest.raises(CorpusError, match="records: 'version' is neither a list nor a mapping"):
        index({"a.json": document}, records="version")


def test_a_mapping_of_names_is_one_record_each(index):
    named = {"0.png": {"caption": "c0"}, "1.png": {"caption": "c1"}}
    for document in (named, {"0.png": "c0", "1.png": "c1"}):
        _, rows, images = index({"a.json": json.dumps(document)}, records=".", fields={"image": "{__key__}"})
        assert [(row["key"], row["caption"]) for row in rows] == [("0.png", "c0"), ("1.png", "c1")]
        assert all(images)


def test_a_document_in_memory_has_a_bound(index, monkeypatch):
    monkeypatch.setattr(json_records, "DOCUMENT_LETTERS", 100)
    monkeypatch.setattr(json_records, "BLOCK_LETTERS", 50)
    with pytest.raises(CorpusError, match="a JSON document of more than 100 letters"):
        index({"a.json": json.dumps({"data": RECORDS})}, records="data")


def test_coco_joins_captions_to_images_in_the_order_of_the_images(index):
    document = {
        "info": {},
        "images": [{"id": 9, "file_name": "1.png"}, {"id": 3, "file_name": "0.png"}, {"id": 4, "file_name": "2.png"}],
        "annotations": [
            {"id": 1, "image_id": 3, "caption": "a"},
            {"id": 2, "image_id": "9", "caption": "b"},
            {"id": 3, "image_id": 3, "caption": "c"},
            {"id": 4, "image_id": 77, "caption": "d"},
        ],
    }
    account, rows, images = index({"a.json": json.dumps(document)}, format="coco")
    assert [(row["key"], row["caption"], row["uri"]) for row in rows] == [
        ("9", "b", "1.png"),
        ("3#1", "a", "0.png"),
        ("3#2", "c", "0.png"),
        ("4", None, "2.png"),
    ]
    assert all(images)
    assert account.passed["a caption whose image the file does not list"].count == 1


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1], "expected COCO annotations"),
        ({"images": []}, "expected COCO annotations"),
        ({"images": [], "annotations": [{"image_id": 1, "bbox": []}]}, "annotations.0 has no 'caption'"),
        ({"images": [{"file_name": "0.png"}], "annotations": []}, "images.0 has no 'id'"),
    ],
)
def test_what_is_not_coco_is_refused(index, document, message):
    with pytest.raises(CorpusError, match=message):
        index({"a.json": json.dumps(document)}, format="coco")


def test_parsing_has_a_bound_on_depth_for_every_reader():
    assert parse_json("[" * 99 + "]" * 99) is not None
    with pytest.raises(NestedTooDeepError):
        parse_json("[" * 102 + "]" * 102)
    with pytest.raises(NestedTooDeepError):
        parse_json(b'{"a":' * 102 + b"1" + b"}" * 102)
    assert parse_json('[["[[[[", "{{{{"]]' + " " * 300) == [["[[[[", "{{{{"]]


def test_records_whose_key_is_empty_are_named_by_their_number(index):
    records = [{"id": "", "image": f"{number}.png", "caption": "x"} for number in range(2)]
    _, rows, _ = index({"t.jsonl": lines(*records)})
    assert [row["key"] for row in rows] == ["t-00000000", "t-00000001"]
