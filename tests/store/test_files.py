"""Files that a pattern names: as `glob` finds them, but no folder passes for an empty one."""

from __future__ import annotations

import errno
import glob
import os

import pytest

from store.corpus.corpus_files import corpus_files
from store.errors import LocationError
from store.files import find_paths

NAMES = ("a1.tar", "a2.tar", ".hidden.tar", "b/a1.tar", "b/c/a3.tar", "b/c/x[1].csv", ".git/a4.tar", "d-e/a5.tar")
PATTERNS = ("*.tar", "a?.tar", "**/*.tar", "b/**", "**/a[13].tar", "b/*/a3.tar", "*/a1.tar", "none/*.tar", "a1.tar/*")


@pytest.fixture
def tree(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path / "b/c")
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_what_glob_finds(tree, pattern):
    found = {path for path in find_paths(tree, pattern, hidden=False) if path.is_file()}
    expected = map(type(tree), glob.glob(f"{tree}/{pattern}", recursive=True))  # noqa: PTH207
    assert found == {path for path in expected if path.is_file()}
    names = {file.uri for file in corpus_files([f"{tree}/{pattern}"])} if found else set()
    assert names == set(map(str, found))


def test_hidden_names_are_found_where_they_are_asked_for(tree):
    assert {path.name for path in find_paths(tree, "*.tar")} == {"a1.tar", "a2.tar", ".hidden.tar"}
    assert [path.name for path in find_paths(tree, ".*.tar", hidden=False)] == [".hidden.tar"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("pattern", ["**/*.tar", "b/*", "*/*/*.tar"])
def test_a_folder_that_cannot_be_read_is_an_error_and_the_corpus_not_smaller(tree, monkeypatch, code, pattern):
    real = os.scandir

    def fails(path):
        if os.fspath(path).endswith("/b"):
            raise OSError(code, os.strerror(code), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(LocationError, match=f"/b: {os.strerror(code)}"):
        corpus_files([f"{tree}/{pattern}"])


def test_a_loop_of_links_is_an_error(tree):
    (tree / "b/up").symlink_to("..")
    with pytest.raises(LocationError, match="Too many levels of symbolic links"):
        find_paths(tree, "**/*.tar")
