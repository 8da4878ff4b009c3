"""Parquet with lists of images, and with a bound on what it expands to."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.corpus.image_source import ImageSource
from store.errors import CorpusError, PairDecodeError
from store.layouts.records import parquet_records


@pytest.fixture
def parquet(index):
    """Write columns as Parquet and index them."""

    def parquet(columns, *, schema=None, row_group_size=2, compression="snappy", **settings):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), sink, row_group_size=row_group_size, compression=compression)
        return index({"t.parquet": sink.getvalue().to_pybytes()}, **settings)

    return parquet


def boxed(*images):
    return [{"bytes": image, "path": None} for image in images]


def test_the_first_image_of_a_list_is_found_again_and_the_others_are_counted(parquet, png):
    images = [boxed(png(0)), boxed(png(1), png(2), png(3)), boxed(png(4))]
    account, rows, found = parquet({"image": images, "caption": ["a", "b", "c"]})
    assert [row["member"]["column"] for row in rows] == ["image.0.bytes"] * 3
    assert found == [png(0), png(1), png(4)]
    second = account.passed["second image of a list"]
    assert (second.count, second.first) == (2, "t.parquet: t-00000001: image.1")


def test_lists_of_images_and_captions_of_one_length_are_pairs_by_position(parquet, png):
    images = [boxed(png(0), png(1)), boxed(png(2)), boxed(png(3), png(4))]
    captions = [["a", "b"], ["c", "d"], ["e", None]]
    account, rows, found = parquet({"id": ["x", "y", "z"], "image": images, "caption": captions})
    assert [(row["key"], row["caption"]) for row in rows] == [
        ("x#1", "a"),
        ("x#2", "b"),
        ("y#1", "c"),
        ("y#2", "d"),
        ("z#1", "e"),
        ("z#2", None),
    ]
    assert found == [png(0), png(1), png(2), png(2), png(3), png(4)]
    assert (account.pairs, account.usable) == (6, 5)


def test_a_list_with_an_empty_place_keeps_its_positions(parquet, png):
    images = [[None, *boxed(png(1))], []]
    account, rows, found = parquet({"image": images, "caption": ["a", "b"]}, row_group_size=1)
    assert [row["member"] and row["member"]["column"] for row in rows] == ["image.1.bytes", None]
    assert found == [png(1), None]
    assert account.passed["no image in the record"].count == 1


def test_images_deep_in_a_row_are_found_again(parquet, png):
    rows_in = [{"study": {"views": [{"img": {"bytes": png(n)}} for n in (i, i + 1)]}} for i in range(3)]
    table = pa.Table.from_pylist(rows_in)
    columns = {"study": table["study"], "caption": ["a", "b", "c"]}
    _, rows, found = parquet(columns, fields={"image": "study.views.1.img"})
    assert found == [png(1), png(2), png(3)]
    assert rows[2]["member"]["column"] == "study.views.1.img.bytes"
    _, rows, found = parquet(columns, fields={"image": "study.views.img"})
    assert found == [png(0), png(1), png(2)]


@pytest.mark.parametrize("kind", [pa.large_list(pa.binary()), pa.list_(pa.binary(), 2), pa.list_(pa.large_binary())])
def test_lists_of_every_kind_are_read(parquet, png, kind):
    schema = pa.schema([("image", kind), ("caption", pa.string())])
    columns = {"image": [[png(0), png(1)], [png(2), png(3)]], "caption": ["a", "b"]}
    _, rows, found = parquet(columns, schema=schema, fields={"image": "image.1"})
    assert found == [png(1), png(3)]
    assert rows[1]["member"]["column"] == "image.1"


def test_a_place_that_is_not_there_is_no_image(parquet, png, folder):
    parquet({"image": [boxed(png(0))], "caption": ["a"]})
    source = ImageSource(folder)
    for column in ("image.1.bytes", "image.0.size", "image.x", "image.0.bytes.0", "image"):
        with pytest.raises(PairDecodeError, match="holds no image in row 0"):
            source.fetch("t.parquet", {"column": column, "row": 0})
    with pytest.raises(CorpusError, match=r"has no column 'other\.0'"):
        source.fetch("t.parquet", {"column": "other.0", "row": 0})


@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_value_that_rows_repeat_does_not_fill_the_memory(parquet, monkeypatch, one_row, compression):
    monkeypatch.setattr(parquet_records, "BATCH_BYTES", 2**22)
    bomb = bytes(2**20)
    values, captions = ([[bomb] * 64], ["a"]) if one_row else ([bomb] * 64, ["a"] * 64)
    with pytest.raises(CorpusError, match=r"column 'image': [\d,]+ bytes of row group 0 may expand to"):
        parquet({"image": values, "caption": captions}, compression=compression, row_group_size=64)


def test_a_label_that_rows_repeat_is_no_bomb(parquet, png, monkeypatch):
    monkeypatch.setattr(parquet_records, "BATCH_BYTES", 2**14)
    columns = {"image": [png(n) for n in range(200)], "caption": [f"{'a ' * 400}"] * 200}
    assert len(parquet(columns, row_group_size=200)[1]) == 200


def test_a_page_that_expands_a_thousand_times_is_refused_before_it_is_read(index, monkeypatch):
    monkeypatch.setattr(parquet_records, "BATCH_BYTES", 2**20)
    sink = pa.BufferOutputStream()
    table = pa.table({"image": [bytes(2**22)] * 4, "caption": ["a"] * 4})
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    with pytest.raises(CorpusError, match=r"of row group 0 may expand to 16,777"):
        index({"t.parquet": sink.getvalue().to_pybytes()})


def test_two_columns_of_one_name_are_an_error(index, png):
    table = pa.table([[png(0)], ["a"], ["b"]], names=["image", "caption", "caption"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(CorpusError, match=r"t\.parquet: two columns are named 'caption'"):
        index({"t.parquet": sink.getvalue().to_pybytes()})


def test_a_text_that_is_not_utf_8_keeps_what_is(index, png):
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"fine"]).buffers())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [png(0), png(1)], "caption": texts}), sink)
    account, rows, images = index({"t.parquet": sink.getvalue().to_pybytes()})
    assert [row["caption"] for row in rows] == ["caf\ufffd", "fine"]
    assert images == [png(0), png(1)]
    assert account.changed["not UTF-8, kept as \ufffd"].count == 1


def test_a_list_of_one_row_that_repeats_a_short_value_is_refused(parquet, monkeypatch):
    monkeypatch.setattr(parquet_records, "BATCH_BYTES", 2**22)
    with pytest.raises(CorpusError, match="of row group 0 may expand to"):
        parquet({"image": [[bytes(2**14)] * 4096], "caption": ["a"]}, compression="zstd")


@pytest.mark.parametrize(
    ("times", "kind", "keys"),
    [
        ([2**38, 2], pa.timestamp("s"), ["10680-", "1970-01-01 00:00:02"]),
        ([1, 2], pa.timestamp("s", tz="No/Where"), ["1970-01-01 00:00:01", "1970-01-01 00:00:02"]),
    ],
    ids=["year", "zone"],
)
def test_a_time_that_python_cannot_hold_ends_nothing(parquet, png, times, kind, keys):
    columns = {"image": [png(0), png(1)], "caption": ["a", "b"], "id": pa.array(times, kind)}
    account, rows, images = parquet(columns)
    assert all(row["key"].startswith(key) for row, key in zip(rows, keys, strict=True))
    assert images == [png(0), png(1)]
    assert account.changed["times that Python cannot hold, kept as texts"].count == 1


def test_decimals_are_keys_as_they_are_written(parquet, png):
    ids = pa.array([Decimal("10000032"), Decimal("1E+2")], pa.decimal128(38, 0))
    _, rows, _ = parquet({"image": [png(0), png(1)], "caption": ["a", "b"], "id": ids})
    assert [row["key"] for row in rows] == ["10000032", "100"]


def test_a_text_in_a_list_that_is_not_utf_8_is_told_as_what_it_is(parquet, png):
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"fine"]).buffers())
    captions = pa.ListArray.from_arrays(pa.array([0, 1, 2]), texts)
    with pytest.raises(CorpusError, match=r"t\.parquet: a text inside a list or another value is not UTF-8") as caught:
        parquet({"image": [png(0), png(1)], "caption": captions})
    assert caught.value.hint is None
