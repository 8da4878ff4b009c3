"""Ranges and lists in braces, as shells and img2dataset write them."""

from __future__ import annotations

import pytest

from store.corpus.braces import expand_braces
from store.corpus.corpus_files import corpus_files
from store.errors import CorpusError
from store.io.location import locate


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{00..02}.tar", ["00.tar", "01.tar", "02.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{008..10}", ["008", "009", "010"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{cc3m,cc12m}/{0..1}.tar", ["cc3m/0.tar", "cc3m/1.tar", "cc12m/0.tar", "cc12m/1.tar"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("{label}/*.png", ["{label}/*.png"]),
        ("s3://bucket/{a,b}/*.tar", ["s3://bucket/a/*.tar", "s3://bucket/b/*.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(pattern, names):
    assert sorted(expand_braces(pattern)) == sorted(names)


@pytest.mark.parametrize("pattern", ["{0..99999999999}.tar", "{0..999}{0..999}{0..999}.tar", "{5..1}.tar", "{0..9..0}"])
def test_ranges_without_end_or_beginning_are_refused(pattern):
    with pytest.raises(CorpusError, match=r"more than 1000000 names|is empty"):
        expand_braces(pattern)


def test_files_come_in_the_order_of_the_range(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.tar").touch()
    assert [file.name for file in corpus_files([f"{tmp_path}/{{8..11}}.tar"])] == ["8.tar", "9.tar", "10.tar", "11.tar"]


def test_a_missing_file_of_a_range_is_named_with_the_count(tmp_path):
    for number in (0, 1, 4):
        (tmp_path / f"{number:03d}.tar").touch()
    with pytest.raises(CorpusError, match=r"3 of the 6 files that .* names are not there; the first is .*/002\.tar"):
        corpus_files([f"{tmp_path}/{{000..005}}.tar"])


def test_braces_work_in_urls(tmp_path):
    bucket = locate(f"memory://braces{tmp_path}")
    for name in ("a/00.tar", "a/01.tar", "b/00.tar", "b/01.tar"):
        bucket.write(name, b"")
    files = corpus_files([f"{bucket.uri}/{{a,b}}/{{00..01}}.tar"])
    names = [file.uri.removeprefix(f"{bucket.uri}/") for file in files]
    assert names == ["a/00.tar", "a/01.tar", "b/00.tar", "b/01.tar"]
    with pytest.raises(CorpusError, match=r"2 of the 4 files .* the first is .*/a/02\.tar"):
        corpus_files([f"{bucket.uri}/a/{{00..03}}.tar"])


def test_a_file_with_braces_in_its_name_is_itself(tmp_path):
    (tmp_path / "{0..1}.tar").touch()
    assert [file.name for file in corpus_files([f"{tmp_path}/{{0..1}}.tar"])] == ["{0..1}.tar"]


def test_a_number_of_thousands_of_digits_is_no_range():
    pattern = f"{{0..1{'0' * 5000}}}.tar"
    assert expand_braces(pattern) == [pattern]
