"""A folder: whole and durable files, links, and errors of the file system that must not pass for an empty place."""

from __future__ import annotations

import errno
import os

import pytest

from store import files
from store.errors import LocationError
from store.io.folder import Folder
from store.io.location import locate


@pytest.fixture
def folder(tmp_path):
    place = locate(tmp_path / "store")
    for key in ("receipts/t/r0", "receipts/t/r1", "store.json"):
        place.write(key, key.encode())
    return place


def failing(code, monkeypatch, name, only="t"):
    """Let a call of the system fail for one name, as a disk or a file server does."""
    real = getattr(os, name)

    def fails(path, *arguments, **options):
        if os.fspath(path).endswith(only):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, name, fails)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(folder, monkeypatch, code):
    failing(code, monkeypatch, "scandir")
    for prefix in ("", "receipts", "receipts/t"):
        with pytest.raises(LocationError, match=f"receipts/t: {os.strerror(code)}"):
            folder.list(prefix)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("question", ["stat", "size", "exists"])
def test_a_file_that_cannot_be_looked_at_is_an_error_and_not_missing(folder, monkeypatch, code, question):
    failing(code, monkeypatch, "stat", only="r0")
    with pytest.raises(LocationError, match=f"receipts/t/r0: {os.strerror(code)}"):
        getattr(folder, question)("receipts/t/r0")


def test_a_file_where_a_folder_is_expected_is_an_error(folder):
    for call in (folder.list, folder.stat, folder.exists):
        with pytest.raises(LocationError, match="Not a directory"):
            call("store.json/x")
    with pytest.raises(LocationError, match="Not a directory"):
        folder.list("store.json")
    with pytest.raises(LocationError, match="Not a directory"):
        folder.create("store.json/x/y", b"")
    assert folder.stat("receipts") is None


def test_links_to_folders_and_files_are_followed(folder, tmp_path):
    listed = folder.list()
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "receipts/t").rename(tmp_path / "elsewhere/t")
    (folder.path / "receipts/t").symlink_to("../../elsewhere/t")
    (folder.path / "store.json").rename(tmp_path / "elsewhere/store.json")
    (folder.path / "store.json").symlink_to(tmp_path / "elsewhere/store.json")
    assert folder.list() == listed
    assert folder.read("receipts/t/r1") == b"receipts/t/r1"
    assert folder.size("store.json") == len("store.json")
    assert not folder.exists("receipts/t/r9")
    assert folder.list("receipts/t/deeper") == []
    folder.create("receipts/t/r9", b"new")
    folder.move("receipts/t/r9", "receipts/t/r1")
    assert (tmp_path / "elsewhere/t/r1").read_bytes() == b"new"


def test_a_link_to_what_is_not_there_is_an_error(folder, tmp_path):
    (folder.path / "receipts/u").symlink_to(tmp_path / "unmounted")
    for call in (folder.exists, folder.read):
        with pytest.raises(LocationError, match=r"receipts/u: a link to what is not there: .*unmounted"):
            call("receipts/u/r0")
    for prefix in ("", "receipts/u"):
        with pytest.raises(LocationError, match="receipts/u: a link to what is not there"):
            folder.list(prefix)
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    with pytest.raises(LocationError, match="gone: a link to what is not there"):
        locate(tmp_path / "gone/store").exists("store.json")


def test_a_loop_of_links_is_an_error(folder):
    (folder.path / "receipts/t/up").symlink_to("..")
    with pytest.raises(LocationError, match="Too many levels of symbolic links"):
        folder.list()


def test_what_is_deleted_while_it_is_listed_is_not_there(folder, monkeypatch):
    failing(errno.ENOENT, monkeypatch, "scandir")
    assert folder.list() == [("store.json", 10)]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_a_file_is_still_created_whole_and_once(folder, monkeypatch, code):
    def refuses(*_paths):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuses)
    folder.create("a/k", b"first")
    with pytest.raises(FileExistsError):
        folder.create("a/k", b"second")
    assert folder.read("a/k") == b"first"
    assert [path.name for path in (folder.path / "a").iterdir()] == ["k"]


def test_a_link_whose_answer_was_lost_counts(folder, monkeypatch):
    real = os.link

    def twice(source, target):
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    folder.create("k", b"mine")
    assert folder.read("k") == b"mine"


def test_a_file_is_created_only_when_its_content_is_on_the_disk(folder, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LocationError, match="No space left"):
            folder.create("receipts/t/r9", b"1")
    assert [path.name for path in sorted((folder.path / "receipts/t").iterdir())] == ["r0", "r1"]


def test_a_move_to_another_file_system_copies(folder, monkeypatch):
    real = os.replace

    def across(source, target):
        if ".tmp" not in os.fspath(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    monkeypatch.setattr(os, "replace", across)
    folder.move("receipts/t/r0", "store.json")
    assert folder.read("store.json") == b"receipts/t/r0"
    assert not folder.exists("receipts/t/r0")


def test_a_linked_file_is_moved_with_its_content(folder, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"content")
    (folder.path / "receipts/t/link").symlink_to("../../../elsewhere")
    folder.move("receipts/t/link", "lost+found/receipts/link")
    assert folder.read("lost+found/receipts/link") == b"content"
    assert not (folder.path / "receipts/t/link").is_symlink()
    assert (tmp_path / "elsewhere").exists()


def test_a_folder_that_another_process_removes_is_made_again(folder, monkeypatch):
    made, real = [], files.make_folder

    def removed_once(path):
        real(path)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(files, "make_folder", removed_once)
    folder.create("staged/1/k", b"v")
    assert folder.read("staged/1/k") == b"v"


def test_a_moved_file_leaves_no_empty_folders(folder):
    folder.move("receipts/t/r0", "a/r0")
    folder.move("receipts/t/r1", "a/r1")
    assert sorted(path.name for path in folder.path.iterdir()) == ["a", "store.json"]
    assert isinstance(folder.below("a"), Folder)
