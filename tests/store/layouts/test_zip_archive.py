"""Zips: stored and deflated, and what cannot be read of them."""

from __future__ import annotations

import struct
import zipfile

import pytest
from PIL import Image

from store.corpus.corpus_files import corpus_files
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import CorpusError, PairDecodeError
from store.index.merge import read_corpus
from store.io.location import locate


@pytest.fixture
def bmp(as_bytes):
    """An image that deflating makes smaller."""
    return as_bytes(Image.new("RGB", (64, 64), (1, 2, 3)), "BMP")


@pytest.fixture
def write_zip(tmp_path):
    def write(name, members, compression=zipfile.ZIP_DEFLATED, **options):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for member, content in members:
                with archive.open(member, "w", **options) as file:
                    file.write(content)
        return tmp_path / name

    return write


def counts(index):
    return {reason: example.count for reason, example in index.account.passed.items()}


def assert_images_are_found_again(index):
    rows = index.table.to_pylist()
    assert rows
    for row in rows:
        assert ImageSource(index.root).fetch(row["uri"], row["member"], sha256=row["image_sha256"])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("zip64", [False, True], ids=["zip", "zip64"])
def test_the_pairs_of_a_zip_are_read_and_their_images_found_again(write_zip, bmp, compression, zip64):
    members = [("d/a.bmp", bmp), ("b.v1.txt", b"two"), ("d/a.txt", b"one"), ("d/a.json", b'{"modality": "ct"}')]
    path = write_zip("a.zip", [*members, ("b.v1.bmp", bmp[::-1] + bmp)], compression, force_zip64=zip64)
    index = read_corpus(Corpus(files=[str(path)]))
    rows = {row["key"]: row for row in index.table.to_pylist()}
    assert {key: (row["caption"], row["modality"]) for key, row in rows.items()} == {
        "d/a": ("one", "ct"),
        "b.v1": ("two", None),
    }
    assert_images_are_found_again(index)
    assert (rows["d/a"]["member"]["nbytes"] < len(bmp)) == (compression == zipfile.ZIP_DEFLATED)


def test_a_zip_behind_other_bytes_and_with_a_comment_is_read(write_zip, bmp):
    path = write_zip("a.zip", [("a.bmp", bmp), ("a.txt", b"t")])
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made by hand" * 100
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert_images_are_found_again(read_corpus(Corpus(files=[str(path)])))


def test_a_zip_on_an_object_storage_is_read_by_ranges(write_zip, bmp, tmp_path):
    bucket = locate(f"memory://zip{tmp_path}")
    bucket.write("a.zip", write_zip("a.zip", [("a.bmp", bmp), ("a.txt", b"t")]).read_bytes())
    index = read_corpus(Corpus(files=[f"{bucket.uri}/*.zip"]))
    assert index.account.usable == 1
    assert_images_are_found_again(index)


def test_members_that_cannot_be_read_are_counted_and_end_nothing(write_zip, bmp):
    path = write_zip("a.zip", [("a.bmp", bmp), ("a.txt", b"t"), ("b.bmp", bmp), ("b.txt", b"u"), ("c.png", bmp)])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("d.bmp", bmp)
        link = zipfile.ZipInfo("e.bmp")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.bmp")
        archive.writestr("__MACOSX/._a.bmp", b"x", zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    # The second image's deflated bytes, and the flag of encryption in the directory's entry of the third.
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("b.bmp").header_offset + 30 + len("b.bmp")
    data[offset : offset + 4] = b"\xff" * 4
    entry = data.rindex(b"c.png") - 46
    data[entry + 8 : entry + 10] = struct.pack("<H", 1)
    path.write_bytes(data)
    index = read_corpus(Corpus(files=[str(path)]))
    assert {row["key"]: row["uri"] for row in index.table.to_pylist()} == {"a": "a.zip", "b": None}
    assert counts(index) == {
        "an image that cannot be read": 1,
        "caption without image": 1,
        "encrypted member of a zip": 1,
        "member of a zip that is neither stored nor deflated": 1,
        "no regular file: link": 1,
        "hidden file, or one of the operating system": 1,
    }


def test_a_bomb_in_a_zip_is_refused_before_it_is_inflated(write_zip, bmp, monkeypatch):
    monkeypatch.setattr("store.corpus.image_source.IMAGE_FILE_BYTES", 1000)
    members = [("a.bmp", bmp), ("a.txt", b"t"), ("b.bmp", b"no image"), ("b.txt", b"u")]
    index = read_corpus(Corpus(files=[str(write_zip("a.zip", members))]))
    assert index.table["uri"].to_pylist() == [None, "a.zip"]
    assert "more than 1000" in index.account.passed["an image that cannot be read"].first


def test_a_zip_cut_short_is_refused(write_zip, bmp):
    path = write_zip("a.zip", [("a.bmp", bmp), ("a.txt", b"t")])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorpusError, match=r"a\.zip: cannot be read as a zip") as caught:
        read_corpus(Corpus(files=[str(path)]))
    assert "fetch the file again" in caught.value.hint


def test_a_deflated_image_whose_zip_changed_is_refused_at_run_time(write_zip, bmp):
    path = write_zip("a.zip", [("a.bmp", bmp), ("a.txt", b"t")])
    index = read_corpus(Corpus(files=[str(path)]))
    row = index.table.to_pylist()[0]
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises((PairDecodeError, CorpusError), match=r"a\.zip"):
        ImageSource(index.root).fetch(row["uri"], row["member"], sha256=row["image_sha256"])


def test_a_zip_that_is_named_a_tar_says_so(write_zip, bmp):
    path = write_zip("a.tar", [("a.bmp", bmp), ("a.txt", b"t")])
    with pytest.raises(CorpusError, match="it is a zip and no tar"):
        read_corpus(Corpus(files=[str(path)]))
    assert read_corpus(Corpus(files=[str(path)], format="zip")).account.usable == 1


def test_a_zip_is_found_by_its_name(write_zip, bmp):
    write_zip("a.ZIP", [("a.bmp", bmp), ("a.txt", b"t")])
    (file,) = corpus_files([str(write_zip("a.ZIP", [("a.bmp", bmp), ("a.txt", b"t")]))])
    assert read_corpus(Corpus(files=[file.uri])).account.usable == 1


def test_a_member_without_a_name_is_counted_and_ends_nothing(tmp_path, bmp):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("a.bmp", bmp), ("a.txt", b"t"), ("nameless", b"x")):
            archive.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(b"nameless", b"\0ameless"))  # Python ends a name at a NUL
    index = read_corpus(Corpus(files=[str(path)]))
    assert index.table["key"].to_pylist() == ["a"]
    assert counts(index) == {"no suffix": 1}
