"""Digests that are kept beside large files: used while nothing of a file changed, and never longer."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from extract.teacher_files import digests
from extract.teacher_files.digests import DIGESTS_NAME, KEPT_FROM_BYTES, SETTLED_NS, file_digest
from store.files import sha256_file


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose content was read for their digest."""
    names = []

    def reading(path):
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", reading)
    return names


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of 1 MiB that is old enough for its digest to be kept."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\1" * KEPT_FROM_BYTES)
    later = time.time_ns() + 2 * SETTLED_NS
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)
    return path


def test_a_file_is_read_once_while_nothing_changes(large, read):
    assert file_digest(large) == file_digest(large) == sha256_file(large)
    assert read == ["weights.bin"]


def test_a_file_that_was_overwritten_in_place_with_its_size_and_time_is_read_again(large, read):
    file_digest(large)
    before = large.stat()
    with large.open("r+b") as file:
        file.write(b"\2")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = large.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert file_digest(large) == sha256_file(large)
    assert len(read) == 2


def test_a_file_that_took_the_place_of_another_with_its_size_and_time_is_read_again(large, tmp_path, read):
    file_digest(large)
    other = tmp_path / "other"
    other.write_bytes(b"\2" * KEPT_FROM_BYTES)
    shutil.copystat(large, other)
    other.replace(large)
    assert file_digest(large) == sha256_file(large)


def test_a_copied_folder_is_read_anew_and_not_refused(large, tmp_path, read):
    file_digest(large)
    copy = tmp_path / "node"
    copy.mkdir()
    for name in (large.name, DIGESTS_NAME):
        shutil.copy2(tmp_path / name, copy / name)
    assert file_digest(copy / large.name) == file_digest(large)
    assert len(read) == 2
    file_digest(copy / large.name)
    assert len(read) == 2


def test_a_digest_of_a_file_that_changed_just_now_or_in_the_future_is_not_kept(large, tmp_path, monkeypatch, read):
    # A file system with coarse times may give a second change the same time; a clock that goes back, too.
    for now in (large.stat().st_ctime_ns, large.stat().st_ctime_ns - 10**12):
        monkeypatch.setattr(digests.time, "time_ns", lambda now=now: now)
        file_digest(large)
    file_digest(large)
    assert len(read) == 3
    assert not (tmp_path / DIGESTS_NAME).exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(large, tmp_path, monkeypatch):
    def changing(path):
        digest = sha256_file(path)
        with path.open("ab") as file:
            file.write(b"more")
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(digests, "sha256_file", changing)
        file_digest(large)
    assert not (tmp_path / DIGESTS_NAME).exists()
    assert file_digest(large) == sha256_file(large)


@pytest.mark.parametrize("content", [b"", b"{", b'{"files": {"weights.bin": {"sha256": "1"}}}', b"\xff\xfe"])
def test_a_damaged_record_of_digests_counts_as_none(large, tmp_path, content):
    (tmp_path / DIGESTS_NAME).write_bytes(content)
    assert file_digest(large) == sha256_file(large)
    assert json.loads((tmp_path / DIGESTS_NAME).read_text())["files"].keys() == {"weights.bin"}


def test_in_a_folder_that_cannot_be_written_a_process_reads_a_file_once(large, tmp_path, monkeypatch, read):
    monkeypatch.setattr(digests, "write_atomic", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert file_digest(large) == file_digest(large) == sha256_file(large)
    assert len(read) == 1
    with large.open("r+b") as file:
        file.write(b"\2")
    assert file_digest(large) == sha256_file(large)
    assert not (tmp_path / DIGESTS_NAME).exists()


def test_another_process_takes_what_is_kept_on_disk(large, monkeypatch, read):
    file_digest(large)
    monkeypatch.setattr(digests, "_known", {})
    file_digest(large)
    assert len(read) == 1


def test_files_that_are_gone_leave_the_record_and_small_ones_never_enter_it(large, tmp_path):
    file_digest(large)
    other, small = tmp_path / "other.bin", tmp_path / "config.json"
    small.write_bytes(b"{}")
    assert file_digest(small) == sha256_file(small)
    large.rename(other)
    file_digest(other)
    assert json.loads((tmp_path / DIGESTS_NAME).read_text())["files"].keys() == {"other.bin"}
