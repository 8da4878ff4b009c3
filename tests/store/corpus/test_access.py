"""The rules say which paths and URLs a table may name."""

from __future__ import annotations

import ipaddress

import pytest

from store.config.pipeline_file import read_pipeline
from store.corpus import access
from store.corpus.access import Access
from store.corpus.section import Corpus
from store.errors import PairDecodeError
from store.pipeline import Pipeline

ADDRESSES = {
    "public.example": ["93.184.216.34"],
    "inside.example": ["10.0.0.7"],
    "rebound.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "nothing.example": [str(ipaddress.IPv4Address(0))],
    "localhost": ["127.0.0.1"],
    "127.0.0.1": ["127.0.0.1"],
    "2130706433": ["127.0.0.1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """No name is asked of a server."""
    monkeypatch.setattr(access, "addresses_of", lambda host: [ipaddress.ip_address(a) for a in ADDRESSES[host]])


@pytest.mark.parametrize(
    ("uri", "root", "allow"),
    [
        ("/data/images/a.png", "/data", []),
        ("/data/x/../images/a.png", "/data", []),
        ("/other/a.png", "/data", ["/other"]),
        ("/etc/hosts", "/", []),
        ("s3://bucket/corpus/images/a.png", "s3://bucket/corpus", []),
        ("s3://other/a.png", "/data", ["s3://other"]),
        ("s3://other/a.png", "/data", ["any"]),
        ("http://public.example/a.png?x=/../y", "/data", ["public.example"]),
        ("http://PUBLIC.example:80/a.png", "/data", ["public.example"]),
        ("https://public.example./a.png", "/data", ["any"]),
        ("http://inside.example/a.png", "/data", ["inside.example"]),
        ("http://localhost:80/a.png", "/data", ["localhost"]),
        ("http://127.0.0.1:80/a.png", "/data", ["127.0.0.1:80"]),
        ("http://127.0.0.1:80/x/a.png", "http://127.0.0.1:80/x", []),
    ],
)
def test_what_lies_below_the_root_or_is_named_is_allowed(uri, root, allow):
    Access(root, allow).require(uri)


@pytest.mark.parametrize(
    ("uri", "root", "allow", "why"),
    [
        ("/etc/passwd", "/data", [], "below the corpus' root"),
        ("/data/../etc/passwd", "/data", [], "below the corpus' root"),
        ("/database/a.png", "/data", [], "below the corpus' root"),
        ("/proc/self/environ", "/data", ["any"], "below the corpus' root"),
        ("file:///data/a.png", "/data", [], "scheme file"),
        ("file:///etc/passwd", "/data", ["any"], "scheme file"),
        ("ftp://host/a.png", "/data", ["any", "host"], "scheme ftp"),
        ("javascript://a", "/data", ["any"], "scheme javascript"),
        ("s3://other/a.png", "s3://bucket", [], "not one that the corpus allows"),
        ("s3://bucket/corpus/../secret/a.png", "s3://bucket/corpus", [], "not one that the corpus allows"),
        ("s3://bucket/corpus/%2e%2e/secret/a.png", "s3://bucket/corpus", [], "not one that the corpus allows"),
        ("http://public.example/a.png", "/data", [], "not one that the corpus allows"),
        ("http://public.example/a.png", "/data", ["example"], "not one that the corpus allows"),
        ("http://public.example@localhost/a.png", "/data", ["public.example"], "not one that the corpus allows"),
        ("http://127.0.0.1:80/y/a.png", "http://127.0.0.1:80/x", [], "not one that the corpus allows"),
        ("http://localhost/a.png", "/data", ["any"], "private network"),
        ("http://2130706433/a.png", "/data", ["any"], "private network"),
        ("http://inside.example/a.png", "/data", ["any"], "private network"),
        ("http://both.example/a.png", "/data", ["any"], "private network"),
        ("http://mapped.example/a.png", "/data", ["any"], "private network"),
        ("http://nothing.example/a.png", "/data", ["any"], "private network"),
        ("http://rebound.example/a.png", "/data", ["rebound.example"], "private network"),
        ("http://metadata.example/a.png", "/data", ["metadata.example"], "private network"),
        ("http://[::1/a.png", "/data", ["any"], "no URL"),
        ("http://host:port/a.png", "/data", ["any"], "no URL"),
    ],
)
def test_everything_else_is_refused_with_the_rule(uri, root, allow, why):
    with pytest.raises(PairDecodeError, match=why) as caught:
        Access(root, allow).require(uri)
    assert "allow" in caught.value.hint


def test_a_folder_in_a_pipeline_is_relative_to_its_file(tmp_path):
    path = tmp_path / "pipelines.yaml"
    path.write_text(
        "p:\n  store: {path: store, corpus: c}\n"
        "  corpora:\n    c: {files: ['meta/*.csv'], allow: [./images, ../more, host.example, 's3://bucket/x/']}\n"
    )
    assert read_pipeline(path, "p", Pipeline).readable() == (
        str(tmp_path / "images"),
        str(tmp_path.parent / "more"),
        "host.example",
        "s3://bucket/x",
        str(tmp_path / "meta"),
    )


@pytest.mark.parametrize("place", ["./images", "./images/", "../{}/images", "~/images", "~/images/"])
def test_a_folder_on_a_command_line_is_relative_to_the_current_one(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Access("/data", [place.format(tmp_path.name)]).require(f"{tmp_path}/images/a.png")


def test_the_folders_of_a_corpus_own_files_are_readable():
    corpus = Corpus(files=["/a/b/*.tar", "/c/x.csv", "s3://bucket/d/{0..3}.tar"])
    assert corpus.readable() == ("/a/b", "/c", "s3://bucket/d")


def test_a_home_folder_that_is_not_there_is_a_problem_of_the_pipeline():
    with pytest.raises(ValueError, match="there is no such home folder"):
        Corpus(files=["a.csv"], allow=["~nobody_of_that_name/x"])
