"""Parquet, JSON lines and CSV as corpora, from files to rows and back to the image's bytes."""

from __future__ import annotations

import csv
import hashlib
import http.server
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from store.corpus.account import Account
from store.corpus.corpus_files import corpus_files
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import CorpusError, PairDecodeError
from store.index.merge import read_corpus
from store.io.location import locate
from store.layouts.source import Source


@pytest.fixture
def pngs(as_bytes):
    return [as_bytes(Image.new("RGB", (5 + number, 4), (number, 9, 9))) for number in range(7)]


@pytest.fixture
def images(tmp_path, pngs):
    """A folder of images beside the tables."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, png in enumerate(pngs):
        (folder / f"{number}.png").write_bytes(png)
    return folder


def rows_of(path, **settings):
    index = read_corpus(Corpus(files=[str(path)], **settings))
    return index, index.table.to_pylist()


def assert_fetches(index, pngs, *, allow=()):
    source = ImageSource(index.root, allow=allow)
    for row, png in zip(index.table.to_pylist(), pngs, strict=True):
        assert source.fetch(row["uri"], row["member"]) == png
        assert row["image_sha256"] == hashlib.sha256(png).hexdigest()


def write_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_parquet_column_of_image_bytes_is_fetched_by_row_group(tmp_path, pngs):
    columns = {"jpg": pngs, "caption": [f"c{n}" for n in range(7)], "id": [f"k{n}" for n in range(7)]}
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=3)
    index, rows = rows_of(path)
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(7)]
    assert rows[4]["member"] == {"offset": None, "nbytes": None, "column": "jpg", "row": 4}
    assert (rows[4]["uri"], rows[4]["width"], rows[4]["caption"]) == ("a.parquet", 9, "c4")
    assert_fetches(index, pngs)


def test_an_image_of_one_row_group_is_read_without_the_others(tmp_path):
    large = [np.random.default_rng(number).bytes(200_000) for number in range(7)]
    path = write_parquet(tmp_path / "a.parquet", {"png": large, "text": ["c"] * 7}, row_group_size=1)
    root = locate(f"memory://parts{tmp_path}")
    root.write("a.parquet", path.read_bytes())
    read = []

    class Watched(type(root)):
        def read_part(self, key, offset, nbytes):
            read.append((offset, nbytes))
            return super().read_part(key, offset, nbytes)

    source = ImageSource(Watched(root.uri))
    assert source.fetch("a.parquet", {"column": "png", "row": 5}) == large[5]
    assert sum(nbytes for _, nbytes in read) < 400_000
    before = len(read)
    assert source.fetch("a.parquet", {"column": "png", "row": 5}) == large[5]
    assert len(read) == before


def test_hugging_faces_mapping_of_bytes_and_path_is_read(tmp_path, images, pngs):
    values = [{"bytes": png, "path": None} for png in pngs[:6]] + [{"bytes": None, "path": "images/6.png"}]
    path = write_parquet(tmp_path / "a.parquet", {"image": values, "text": ["c"] * 7}, row_group_size=2)
    index, rows = rows_of(path)
    assert rows[3]["member"] == {"offset": None, "nbytes": None, "column": "image.bytes", "row": 3}
    assert (rows[6]["uri"], rows[6]["member"]) == ("images/6.png", None)
    assert rows[1]["key"] == "a-00000001"
    assert_fetches(index, pngs)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_image_paths_count_from_the_folder_of_the_file(tmp_path, images, pngs, suffix):
    path = tmp_path / f"pairs.{suffix}"
    records = [{"key": f"k{n}", "image": f"images/{n}.png", "caption": f"caption, {n}"} for n in range(7)]
    if suffix == "jsonl":
        path.write_text("\n\n".join(map(json.dumps, records)))
    elif suffix == "parquet":
        write_parquet(path, pa.Table.from_pylist(records).to_pydict())
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    index, rows = rows_of(path)
    assert [row["caption"] for row in rows] == [f"caption, {n}" for n in range(7)]
    assert (rows[2]["uri"], rows[2]["member"]) == ("images/2.png", None)
    assert_fetches(index, pngs)


def test_an_absolute_path_and_one_above_the_file_are_found(tmp_path, images, pngs):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "a.jsonl"
    records = [{"image": str(images / "0.png"), "caption": "a"}, {"image": "../images/1.png", "caption": "b"}]
    path.write_text("\n".join(map(json.dumps, records)))
    index, rows = rows_of(path, allow=[str(tmp_path)])
    assert [row["uri"] for row in rows] == ["../images/0.png", "../images/1.png"]
    assert_fetches(index, pngs[:2], allow=[str(tmp_path)])


def test_images_are_fetched_by_url(tmp_path, images, pngs):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}/images"
        path = tmp_path / "a.jsonl"
        lines = [{"url": f"{base}/{name}", "caption": name} for name in ("3.png", "none.png")]
        path.write_text("\n".join(map(json.dumps, lines)))
        index, rows = rows_of(path, allow=[base])
        source = ImageSource(index.root, allow=[base])
        assert [row["uri"] for row in rows] == [f"{base}/3.png", f"{base}/none.png"]
        assert source.fetch(rows[0]["uri"], None) == pngs[3]
        with pytest.raises(PairDecodeError, match=r"none\.png"):
            source.fetch(rows[1]["uri"], None)
    finally:
        server.shutdown()
        server.server_close()
    assert [example.count for example in index.account.passed.values()] == [1]


def test_an_image_that_is_missing_keeps_its_row_and_is_named(tmp_path, images):
    path = tmp_path / "a.jsonl"
    lines = [{"image": "images/0.png", "caption": "a"}, {"image": "images/99.png", "caption": "b"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    index, rows = rows_of(path)
    assert (rows[1]["uri"], rows[1]["image_sha256"], rows[1]["caption"]) == ("images/99.png", None, "b")
    missing = index.account.passed["no file at an image's path"]
    assert missing.count == 1
    assert missing.first.endswith("images/99.png: there is no such file")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"image": "x", "caption": "c"}\n{"image"', r"a\.jsonl:2: not a line of JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl:1: expected a JSON object on each line"),
        ("a.csv", "image,caption\nx,y,z\n", r"a\.csv:2: 3 values, the header names 2 columns"),
        ("a.csv", "picture,caption\nx,y\n", r"a\.csv: no column of images was found; there are picture, caption"),
        ("a.csv", "image,says\nx,y\n", r"a\.csv: no column of captions was found; there are image, says"),
        ("a.parquet", "no parquet", r"a\.parquet: cannot be read as Parquet"),
        ("a.xyz", "", r"a\.xyz: its name does not say what it is; expected one of \.tar"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_corpus(Corpus(files=[str(tmp_path / name)]))


def test_a_format_that_the_name_does_not_tell_can_be_said(tmp_path, images):
    (tmp_path / "list.txt").write_text('{"image": "images/0.png", "caption": "a"}')
    assert rows_of(tmp_path / "list.txt", format="jsonl")[1][0]["uri"] == "images/0.png"


def test_a_parquet_file_of_another_content_is_noticed_when_an_image_is_fetched(tmp_path, pngs):
    path = write_parquet(tmp_path / "a.parquet", {"png": pngs, "caption": ["c"] * 7})
    source = ImageSource(tmp_path)
    with pytest.raises(PairDecodeError, match="is cut short: it has 7 rows, not 10"):
        source.fetch("a.parquet", {"column": "png", "row": 9})
    with pytest.raises(CorpusError, match="has no column 'jpg'"):
        source.fetch("a.parquet", {"column": "jpg", "row": 0})
    write_parquet(path, {"png": [*pngs[:6], None], "caption": ["c"] * 7})
    with pytest.raises(PairDecodeError, match="holds no image in row 6"):
        ImageSource(tmp_path).fetch("a.parquet", {"column": "png", "row": 6})


def test_records_of_a_table_come_whole_for_an_evaluation(tmp_path, pngs):
    path = write_parquet(tmp_path / "a.parquet", {"png": pngs[:2], "caption": ["a", "b"], "finding": ["x", "y"]})
    corpus = Corpus(files=[str(path)])
    (file,) = corpus_files(corpus.files)
    pairs = list(Source(file, corpus, Account(), ImageSource(tmp_path)).pairs(all_columns=True))
    assert [(pair.image, pair.metadata["finding"]) for pair in pairs] == [(pngs[0], "x"), (pngs[1], "y")]


def test_a_corpus_at_a_url_is_found_by_pattern_and_read_in_parts(tmp_path, pngs, write_tar):
    bucket = locate(f"memory://corpus{tmp_path}")
    for number in (0, 1):
        tar = write_tar(f"{number}.tar", [(f"p{number}.png", pngs[number]), (f"p{number}.txt", b"text")])
        bucket.write(f"deep/{number}/{number}.tar", tar.read_bytes())
    bucket.write("deep/readme.md", b"no corpus")
    for pattern in ("deep/*/*.tar", "**/*.tar", "deep/[01]/?.tar"):
        index, rows = rows_of(f"{bucket.uri}/{pattern}")
        assert [row["key"] for row in rows] == ["p0", "p1"]
        assert_fetches(index, pngs[:2])
    with pytest.raises(CorpusError, match="no corpus file matches"):
        rows_of(f"{bucket.uri}/*.tar")


def test_a_corpus_whose_paths_all_lead_nowhere_names_the_first(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\nimages/0001.png,a\nimages/0002.png,b\n")
    with pytest.raises(CorpusError) as caught:
        read_corpus(Corpus(files=[str(tmp_path / "t.csv")]))
    first = f"t.csv: t-00000000: {tmp_path}/images/0001.png: there is no such file"
    assert str(caught.value).endswith(f"; 2 times no file at an image's path, first {first}")
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("name", "settings", "kinds"),
    [
        ("a.jsonl", {"separator": ";"}, "csv"),
        ("a.jsonl", {"records": "data"}, "json"),
        ("a.tar", {"names": {"json.label": ["a"]}}, "coco, csv, json, jsonl, npz, parquet"),
    ],
)
def test_a_setting_without_meaning_for_a_file_is_not_passed_over(tmp_path, name, settings, kinds):
    (tmp_path / name).write_bytes(bytes(1024))
    with pytest.raises(CorpusError, match=rf"{next(iter(settings))} has no meaning .* only for {kinds}$"):
        rows_of(tmp_path / name, **settings)
