"""Folders, memory and a real S3 server behave alike."""

from __future__ import annotations

import os
import pickle
import time

import pytest

from store.errors import LocationError, ObjectChangedError
from store.io import remote as module
from store.io.folder import Folder
from store.io.location import locate
from store.io.remote import Remote


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request, tmp_path):
    """An empty location of each kind."""
    if request.param == "folder":
        return locate(tmp_path / "store")
    if request.param == "s3":
        request.getfixturevalue("s3")
        return locate(f"s3://bucket/{tmp_path.name}/store")
    return locate(f"memory://{tmp_path.name}/store")


@pytest.fixture(params=["folder", "memory"])
def conditional(request, tmp_path):
    """An empty location of each kind that can refuse what is there."""
    return locate(tmp_path / "store") if request.param == "folder" else locate(f"memory://{tmp_path.name}/store")


def test_what_was_written_is_read_whole_and_in_part(place):
    place.write("a/b.bin", b"0123456789")
    place.write("a/b.bin", b"abcdefghij")
    assert place.read("a/b.bin") == b"abcdefghij"
    assert place.read_part("a/b.bin", 2, 3) == b"cde"
    assert place.read_part("a/b.bin", 4, 0) == b""
    assert (place.size("a/b.bin"), place.exists("a/b.bin")) == (10, True)
    assert locate(f"{place.uri}/a").read("b.bin") == b"abcdefghij"


def test_an_object_that_is_not_there_is_told_from_one_that_is_empty(place):
    place.write("empty", b"")
    assert (place.size("empty"), place.read("empty")) == (0, b"")
    assert (place.size("none"), place.exists("none")) == (None, False)
    with pytest.raises(FileNotFoundError):
        place.read("none")
    with pytest.raises(FileNotFoundError):
        place.read_part("none", 0, 1)


def test_a_listing_is_sorted_and_ends_at_folders_not_at_letters(place):
    for key in ("receipts/b/2", "receipts/a/1", "receipts/ab/3", "store.json"):
        place.write(key, key.encode())
    assert place.list("receipts/a") == [("receipts/a/1", 12)]
    assert [key for key, _ in place.list()] == ["receipts/a/1", "receipts/ab/3", "receipts/b/2", "store.json"]
    assert place.list("nothing") == []


def test_deleting_takes_what_is_there_and_leaves_the_rest(place):
    for key in ("x/1", "x/2", "y/1"):
        place.write(key, b"1")
    place.delete(["x/1", "x/9"])
    assert [key for key, _ in place.list()] == ["x/2", "y/1"]
    place.delete_below("x")
    assert [key for key, _ in place.list()] == ["y/1"]


def test_it_travels_to_another_process_by_its_name(place):
    place.write("k", b"v")
    again = pickle.loads(pickle.dumps(place))  # noqa: S301 - our own bytes
    assert again == place
    assert again.read("k") == b"v"


def test_creating_what_is_there_is_refused(conditional):
    conditional.create("deep/k", b"first")
    with pytest.raises(FileExistsError):
        conditional.create("deep/k", b"second")
    assert conditional.read("deep/k") == b"first"
    assert conditional.list() == [("deep/k", 5)]


def test_an_object_is_moved_over_another_or_to_a_free_place(place):
    place.write("staged/t/a", b"new")
    place.write("staged/t/b", b"more")
    place.write("a", b"old and longer")
    place.move("staged/t/a", "a")
    place.move("staged/t/b", "c/b")
    assert [(key, place.read(key)) for key, _ in place.list()] == [("a", b"new"), ("c/b", b"more")]
    with pytest.raises(FileNotFoundError):
        place.move("staged/t/a", "a")
    assert place.read("a") == b"new"


def test_a_stamp_tells_whether_an_object_is_still_the_same(place):
    assert place.stat("k") is None
    place.write("k", b"0123456789")
    seen = place.stat("k")
    assert seen.nbytes == 10
    assert abs(seen.modified - time.time()) < 3600
    assert place.stat("k") == seen
    assert place.read_part("k", 2, 3, stamp=seen.stamp) == b"234"
    place.write("k", b"other bytes")
    assert place.stat("k").stamp != seen.stamp
    with pytest.raises(ObjectChangedError, match=r"k: .*replaced since"):
        place.read_part("k", 2, 3, stamp=seen.stamp)
    with pytest.raises(FileNotFoundError):
        place.read_part("none", 0, 1, stamp=seen.stamp)


def test_a_folder_below_is_a_location_of_its_own(place):
    place.below("next/12").write("a/b", b"v")
    assert place.list() == [("next/12/a/b", 1)]
    assert place.below("next/12").list("a") == [("a/b", 1)]
    assert place.below("next") == locate(f"{place.uri}/next")


def test_a_path_a_file_url_and_a_location_name_the_same_folder(tmp_path):
    assert locate(tmp_path) == locate(str(tmp_path)) == locate(f"file://{tmp_path}") == locate(locate(tmp_path))
    assert isinstance(locate(tmp_path), Folder)
    assert isinstance(locate("s3://bucket/x"), Remote)


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(LocationError, match=r"ftp://host/x: unknown scheme 'ftp'.*s3://"):
        locate("ftp://host/x")


def test_wrong_credentials_are_said_and_where_they_come_from(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    module._client.cache_clear()
    try:
        with pytest.raises(LocationError, match="refuses these credentials") as caught:
            locate("s3://bucket/x").read("store.json")
    finally:
        module._client.cache_clear()
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(LocationError, match="Permission denied"):
        locate(tmp_path).write("k", b"v")


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocationError, match="file/k: "):
        locate(tmp_path / "file").write("k", b"v")
