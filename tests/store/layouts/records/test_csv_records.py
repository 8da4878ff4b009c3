"""CSV: what could be read in two ways is an error with its line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.corpus.corpus_files import as_corpus_file
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.layouts.records import csv_records, text_lines
from store.layouts.tables import read_records

PLAIN = "image,caption\n0.png,first\n1.png,second\n"


def captions(rows):
    return [row["caption"] for row in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'image,caption\n0.png,"Figure 1\n1.png,another\n2.png,third "quoted" x\n3.png,fourth\n',
            r"a\.csv:2: the quoted value .*Figure 1.* begins here; the quote that ends it, on line 4",
        ),
        ('image,caption\n0.png,fine\n1.png,"open\n2.png,c\n', r"a\.csv:3: the quote that begins .* is never closed"),
        ('image,caption\n0.png,a "b" c\n', r"a\.csv:2: a quote stands inside the value 'a \"b\" c'"),
        ('image,caption\n0.png,5" needle\n1.png,c\n', r"a\.csv:2: a quote stands inside"),
        ('image,caption,x\n0.png,"two\nlines",b "c"\n', r"a\.csv:3: a quote stands inside"),
        ("image,caption,image\n0.png,a,b\n", r"a\.csv:1: columns 1 and 3 are both named 'image'"),
        ("image,,caption\n0.png,a,b\n", r"a\.csv:1: column 2 has no name"),
        ("image,caption,\n0.png,a,\n", r"a\.csv:1: column 3 has no name"),
        ("image,caption\n0.png,a,b\n", r"a\.csv:2: 3 values, the header names 2 columns"),
        ("image,caption\n0.png\n", r"a\.csv:2: 1 values, the header names 2 columns"),
        ('image,caption\n0.png,"two\nlines"\n0.png\n', r"a\.csv:4: 1 values"),
        ('image,caption\n0.png,"two\nlines",x\n', r"a\.csv:2: 3 values"),
        ("image;caption\n0.png;a, b\n", r"a\.csv:1: the first line has no ',', but semicolons"),
        ("image\tcaption\n0.png\ta\n", r"no ',', but tabs"),
        ("0.png,a\n1.png,b\n", r"no column of images was found; there are 0\.png, a"),
        ("", r"no column of images was found; there are no columns"),
        (b"image,caption\n0.png,caf\xe9\n", r"a\.csv:2: byte 0xe9 is not UTF-8"),
        ("image,caption\n0.png,a\n".encode("utf-16"), r"a\.csv:1: begins with the byte order mark of UTF-16"),
        ("image,caption\n0.png,a\n".encode("utf-16-le"), r"a\.csv:1: begins with zero bytes"),
    ],
)
def test_what_is_not_strictly_csv_is_an_error_with_its_line(index, content, message):
    with pytest.raises(CorpusError, match=message):
        index({"a.csv": content})


def test_the_error_about_a_separator_tells_the_setting_that_reads_the_file(index):
    for separator, written in ((";", ";"), ("\t", "\\t"), ("|", "|")):
        files = {"a.csv": PLAIN.replace(",", separator)}
        with pytest.raises(CorpusError) as caught:
            index(files)
        assert f'separator: "{written}"' in caught.value.hint
        assert captions(index(files, separator=separator)[1]) == ["first", "second"]


@pytest.mark.parametrize("separator", ["", ";;", '"', "\n"])
def test_a_separator_is_one_letter(separator):
    with pytest.raises(ValueError, match="expected one letter"):
        Corpus(files=["a.csv"], separator=separator)


def test_a_file_without_header_line_takes_the_names_of_the_pipeline(index):
    _, rows, images = index({"a.csv": "0.png,first\n1.png,second\n"}, header=["image", "caption"])
    assert captions(rows) == ["first", "second"]
    assert all(images)
    with pytest.raises(CorpusError, match=r"a\.csv:1: the first line of the file names the columns itself"):
        index({"a.csv": PLAIN}, header=["image", "caption"])
    with pytest.raises(CorpusError, match=r"a\.csv:1: 2 values, 3 columns are named"):
        index({"a.csv": "0.png,first\n"}, header=["image", "caption", "other"])


def test_quotes_are_letters_where_the_pipeline_says_so(index):
    content = 'image\tcaption\n0.png\t5" needle\n1.png\t"open\n'
    assert captions(index({"a.tsv": content}, quotes=False)[1]) == ['5" needle', '"open']


def test_pandas_index_column_has_no_name(index):
    assert captions(index({"a.csv": ",image,caption\n0,0.png,first\n1,1.png,second\n"})[1]) == ["first", "second"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        "image, caption\n0.png,first\n\n1.png,second\n",
        'image,caption\n"0.png","first"\n1.png,"second"',
    ],
)
def test_marks_line_ends_and_spaces_around_names_change_nothing(index, content):
    assert captions(index({"a.csv": content})[1]) == ["first", "second"]


@pytest.mark.parametrize("value", ["", "NaN", "nan", "<NA>", '""'])
def test_an_empty_value_is_no_caption(index, value):
    account, rows, _ = index({"a.csv": f"image,caption\n0.png,a\n1.png,{value}\n"})
    assert captions(rows) == ["a", None]
    assert account.usable == 1


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_tables_are_read_and_damaged_ones_named(index, suffix, compress):
    tabs = PLAIN.replace(",", "\t")
    for name, content in (("a.csv", PLAIN), ("a.tsv", tabs), ("a.jsonl", '{"image": "0.png", "caption": "first"}\n')):
        _, rows, _ = index({f"{name}.{suffix}": compress(content.encode())})
        assert rows[0]["caption"] == "first"
    with pytest.raises(CorpusError, match=rf"b\.csv\.{suffix}:\d: cannot be decompressed"):
        index({f"b.csv.{suffix}": compress(PLAIN.encode())[:-12]})
    with pytest.raises(CorpusError, match="cannot be decompressed"):
        index({f"c.csv.{suffix}": PLAIN})


def test_a_file_of_another_kind_is_told_by_its_first_bytes(index):
    gzipped = gzip.compress(PLAIN.encode())
    for content, kind in ((gzipped, "a gzip file, which has to be named .gz"), (b"PK\3\4", "a zip file")):
        with pytest.raises(CorpusError, match=rf"a\.csv: is {kind}"):
            index({"a.csv": content})


def test_a_line_and_a_record_have_a_bound(index, monkeypatch):
    monkeypatch.setattr(text_lines, "LINE_LETTERS", 100)
    with pytest.raises(CorpusError, match=r"a\.csv:2: a line of more than 100 letters"):
        index({"a.csv": "image,caption\n0.png," + "a" * 200})
    monkeypatch.setattr(csv_records, "RECORD_LETTERS", 300)
    with pytest.raises(CorpusError, match=r"a\.csv:2: a record of more than 300 letters"):
        index({"a.csv": 'image,caption\n0.png,"' + "aaaa\n" * 100})


@given(
    rows=st.lists(st.lists(st.text(st.sampled_from('ab",;\t\n\r é'), max_size=6), min_size=2, max_size=2), max_size=5),
    separator=st.sampled_from(",;\t"),
)
def test_whatever_pythons_writer_writes_is_read_back(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([["x", "y"], *rows])
    path.write_bytes(text.getvalue().encode())
    found = list(read_records(as_corpus_file(path), "csv", separator=separator))
    assert found == [{"x": row[0] or None, "y": row[1] or None} for row in rows]


@pytest.mark.parametrize("settings", [{}, {"separator": ";"}], ids=["commas", "semicolons"])
def test_a_line_that_tells_excel_the_separator_is_told_as_what_it_is(index, settings):
    with pytest.raises(CorpusError, match=r"a\.csv:1: the line 'sep=;' tells Excel the separator") as caught:
        index({"a.csv": "sep=;\nimage;caption\n0.png;x\n"}, **settings)
    assert caught.value.hint == "take the line out, and say separator in the corpus"
