"""Places of corpus files relative to the folder that all share, and back again."""

from __future__ import annotations

import os

import pytest

from store.corpus.corpus_files import as_corpus_file, common_root, corpus_files, qualifiers, relative_uri, resolve_uri
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.layouts.source import format_of

CASES = [
    # uri, root, relative
    ("s3://bucket/a.tar", "s3://bucket", "a.tar"),
    ("s3://bucket/d/a.tar", "s3://bucket", "d/a.tar"),
    ("s3://bucket/a.tar", "s3://bucket/d/e", "../../a.tar"),
    ("s3://bucket/a%20b?c.tar", "s3://bucket/d", "../a%20b?c.tar"),
    ("http://host/a.tar", "http://host", "a.tar"),
    ("http://host:80/a.tar", "http://host:80", "a.tar"),
    ("http://host/d/a.png?u=/x/../y", "http://host/d", "a.png?u=/x/../y"),
    ("http://host/a.png?u=/x/../y", "http://host/d", "../a.png?u=/x/../y"),
    ("http://host/a.tar", "s3://bucket", "http://host/a.tar"),
    ("/a.tar", "/", "a.tar"),
    ("/data/a?b/../c.tar", "/data", "c.tar"),
]


@pytest.mark.parametrize(("uri", "root", "relative"), CASES)
def test_a_place_relative_to_a_root_leads_back_whatever_the_current_folder_is(
    uri, root, relative, tmp_path, monkeypatch
):
    for folder in ("one", "one/two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert relative_uri(uri, root) == relative
    if ".." not in uri.partition("?")[0] and root != "/data":
        assert resolve_uri(relative, root) == uri


@pytest.mark.parametrize(
    ("uris", "root"),
    [
        (["s3://bucket/a.tar"], "s3://bucket"),
        (["s3://bucket/a.tar", "s3://bucket/d/b.tar"], "s3://bucket"),
        (["http://host:8080/a.tar?x=/y", "http://host:8080/b.tar"], "http://host:8080"),
        (["/a.tar", "/d/b.tar"], "/"),
    ],
)
def test_files_at_the_root_of_a_storage_share_it(uris, root):
    assert common_root([as_corpus_file(uri) for uri in uris]) == root


def test_a_query_is_no_part_of_a_files_name():
    file = as_corpus_file("https://host/d/000.tar?sign=a/b.csv")
    assert (file.uri, file.name) == ("https://host/d/000.tar?sign=a/b.csv", "000.tar?sign=a/b.csv")
    assert (file.stem, format_of(file, Corpus(files=["x"]))) == ("000", "tar")
    assert as_corpus_file("s3://bucket/a?b.tar").stem == "a?b"


@pytest.mark.parametrize(
    ("uris", "before_keys"),
    [
        (["/d/a.tar", "/d/b.tar"], ["a", "b"]),
        (["/d/cc3m/0.tar", "/d/cc12m/0.tar", "/d/x/1.tar"], ["cc3m/0", "cc12m/0", "1"]),
        (["/d/a/0.tar", "/d/a/0.csv"], ["a/0.tar", "a/0.csv"]),
        (["https://host/a/0.tar?sign=1", "https://host/b/0.tar?sign=2"], ["a/0", "b/0"]),
    ],
)
def test_keys_get_the_name_of_their_file_or_its_path_where_names_repeat(uris, before_keys):
    files = [as_corpus_file(uri) for uri in uris]
    root = "/d" if uris[0].startswith("/") else common_root(files)
    assert list(qualifiers(files, root).values()) == before_keys


def test_what_is_no_file_is_told_as_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    (tmp_path / "b.tar").symlink_to("nowhere")
    for name in ("a.tar", "b.tar"):
        with pytest.raises(CorpusError, match=rf"{name}: is neither a file nor a folder, but a pipe"):
            corpus_files([str(tmp_path / name)])


def test_a_name_that_is_not_utf_8_is_one_error_before_anything_is_read(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"f\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(CorpusError, match=r"f\\udce9/: its name is not UTF-8, which no table can hold; rename it"):
        corpus_files([f"{tmp_path}/*/"])
