"""Folders of images with captions beside them, without a program of one's own."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from store.config.pipeline_file import read_pipeline
from store.corpus.corpus_files import corpus_files
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import CorpusError, LocationError, StoreError
from store.index.append import append_corpus
from store.index.create import index_corpus
from store.index.merge import read_corpus
from store.io.folder import Folder
from store.io.location import locate
from store.pipeline import Pipeline


@pytest.fixture
def png(as_bytes):
    return as_bytes(Image.new("RGB", (7, 5), (1, 2, 3)))


@pytest.fixture
def images(tmp_path, png):
    """A folder of four images: in two folders, with captions of every kind, and what other programs leave there."""
    folder = tmp_path / "images"
    files = {
        "ct/a.png": png,
        "ct/a.txt": b"caption a",
        "ct/scan.v1.JPG": png,
        "ct/scan.v1.caption": b"caption scan",
        "mr/b.jpeg": png,
        "mr/b.json": json.dumps({"caption": "caption b", "modality": "mr"}).encode(),
        "c.png": png,
        ".DS_Store": b"x",
        "ct/._a.png": b"x",
        "__MACOSX/a.png": png,
        "notes.pdf": b"x",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def captions(index):
    return dict(zip(*(index.table[name].to_pylist() for name in ("key", "caption")), strict=True))


def counts(index):
    return {reason: example.count for reason, example in index.account.passed.items()}


ALL = {"c": None, "ct/a": "caption a", "ct/scan.v1": "caption scan", "mr/b": "caption b"}


def test_a_folder_is_read_with_all_folders_below_it(images):
    index = read_corpus(Corpus(files=[f"{images}/"]))
    assert captions(index) == ALL
    assert index.table["modality"].to_pylist() == [None, None, None, "mr"]
    assert index.table["member"].to_pylist() == [None] * 4
    assert counts(index) == {
        "hidden file, or one of the operating system": 3,
        "suffix .pdf is not taken": 1,
        "image without caption": 1,
    }
    source = ImageSource(index.root)
    for row in index.table.to_pylist():
        assert source.fetch(row["uri"], row["member"], sha256=row["image_sha256"])


def test_a_folder_needs_no_slash_and_a_pipeline_keeps_it(images, tmp_path):
    assert captions(read_corpus(Corpus(files=[str(images)]))) == ALL
    text = "p: {corpora: {c: {files: [images/*/]}}, store: {path: store/}}"
    (tmp_path / "pipelines.yaml").write_text(text)
    pipeline = read_pipeline(tmp_path / "pipelines.yaml", "p", Pipeline)
    assert pipeline.corpora["c"].files == [f"{images}/*/"]
    assert captions(read_corpus(pipeline.corpora["c"])) == {key[3:]: text for key, text in ALL.items() if "/" in key}


def test_a_pattern_chooses_images_and_takes_the_captions_beside_them(images):
    index = read_corpus(Corpus(files=[f"{images}/**/*.png"]))
    assert captions(index) == {"c": None, "ct/a": "caption a"}
    assert counts(index)["image that the pattern does not match"] == 2
    assert counts(index)["text without an image that the pattern matches"] == 2


def test_suffixes_in_a_pattern_match_in_either_case(images):
    assert captions(read_corpus(Corpus(files=[f"{images}/ct/*.jpg"]))) == {"scan.v1": "caption scan"}


def test_several_patterns_of_one_folder_are_one_file_of_the_corpus(images):
    in_braces, listed = ["*/*.{png,jpg}", "*.png"], ["*/*.png", "*/*.jpg", "*.png"]
    for patterns in (in_braces, listed):
        index = read_corpus(Corpus(files=[f"{images}/{pattern}" for pattern in patterns]))
        assert captions(index) == {"c": None, "ct/a": "caption a", "ct/scan.v1": "caption scan"}
        assert index.account.files == 1
        assert counts(index)["image that the pattern does not match"] == 1


def test_a_single_image_is_no_corpus_and_its_folder_is_named(images):
    with pytest.raises(CorpusError, match="its name does not say what it is") as caught:
        read_corpus(Corpus(files=[f"{images}/c.png"]))
    assert "name its folder" in caught.value.hint


def test_the_images_at_the_root_of_a_bucket_are_read(tmp_path, png):
    bucket = locate("memory://bucket-of-images")
    bucket.write("a.png", png)
    bucket.write("a.txt", b"t")
    for pattern in ("memory://bucket-of-images/*.png", "memory://bucket-of-images/"):
        index = read_corpus(Corpus(files=[pattern], qualify_keys=True))
        row = index.table.to_pylist()[0]
        assert (row["key"], row["uri"]) == ("a", "a.png")
        assert ImageSource(index.root).fetch(row["uri"], row["member"], sha256=row["image_sha256"]) == png


def test_a_slow_disk_is_read_on_threads_in_the_same_order(images, png, monkeypatch):
    for number in range(60):
        (images / f"ct/{number:02d}.png").write_bytes(png)
        (images / f"ct/{number:02d}.txt").write_text(f"{number}")
    corpus = Corpus(files=[f"{images}/ct/"])
    quick = read_corpus(corpus).table
    threads, read = set(), Folder.read

    def noted(self, key):
        threads.add(threading.get_ident())
        return read(self, key)

    monkeypatch.setattr(Folder, "read", noted)
    monkeypatch.setattr("store.io.fetching.SLOW_FILE_S", 0.0)
    assert read_corpus(corpus).table == quick
    assert len(threads) > 1


def test_a_file_that_may_not_be_read_ends_nothing(images, monkeypatch):
    def refused(path, flags):
        if str(path).endswith("/a.png"):
            raise PermissionError(13, "Permission denied")
        return os.open(path, flags)

    monkeypatch.setattr("store.io.folder._open_regular", refused)
    index = read_corpus(Corpus(files=[f"{images}/"]))
    assert captions(index) == ALL
    assert index.account.passed["an image that cannot be read"].first == "images: ct/a: ct/a.png: Permission denied"


def test_a_folder_that_may_not_be_read_is_named(images, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("ct"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(LocationError, match=r"images/ct: Permission denied"):
        read_corpus(Corpus(files=[f"{images}/"]))


def test_a_pattern_without_suffix_takes_what_belongs_to_its_images(images):
    assert captions(read_corpus(Corpus(files=[f"{images}/ct/*"]))) == {"a": "caption a", "scan.v1": "caption scan"}


def test_a_folder_of_other_files_says_what_it_holds_and_how_to_name_them(tmp_path, write_tar):
    write_tar("shards/0.tar", [("a.txt", b"t")])
    write_tar("shards/1.tar", [("b.txt", b"t")])
    with pytest.raises(CorpusError, match=r"no image is in this folder; it holds 2 \.tar") as caught:
        read_corpus(Corpus(files=[str(tmp_path / "shards/")]))
    assert caught.value.hint == f"to read its .tar files, name them: {tmp_path}/shards/*.tar"


def test_a_pattern_of_folders_says_how_to_read_the_images_in_them(images):
    with pytest.raises(CorpusError, match="but 1 folders do") as caught:
        corpus_files([f"{images}/m*"])
    assert caught.value.hint.endswith(f"end it with a /: {images}/m*/")


def test_a_folder_is_one_line_of_the_store_and_a_change_in_it_is_noticed(images, tmp_path, png):
    corpus = Corpus(files=[f"{images}/"])
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    assert list(info.corpus["files"]) == ["images"]
    assert index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2) == (info, None)
    (images / "ct/.DS_Store").write_bytes(b"looked at")
    assert index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2) == (info, None)
    found = (images / "ct/a.png").stat()
    (images / "ct/a.png").write_bytes(png[::-1])
    os.utime(images / "ct/a.png", ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    with pytest.raises(StoreError, match="other corpus files"):
        index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)


@pytest.mark.parametrize("change", ["added", "gone", "caption"])
def test_every_change_of_a_folder_changes_its_stamp(images, change, png):
    (file,) = corpus_files([f"{images}/"])
    before = file.stamp(), file.sha256()
    match change:
        case "added":
            (images / "ct/new.png").write_bytes(png)
        case "gone":
            (images / "mr/b.jpeg").unlink()
        case "caption":
            (images / "ct/a.txt").write_text("caption b")
    assert file.stamp() != before[0]
    assert file.sha256() != before[1]


def test_a_new_folder_is_appended(images, tmp_path, png):
    corpus = Corpus(files=[f"{images}/*/"], qualify_keys=True)
    index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    (images / "pet").mkdir()
    (images / "pet/p.png").write_bytes(png)
    (images / "pet/p.txt").write_text("new")
    info, _ = append_corpus(tmp_path / "store", corpus)
    assert (info.rows, sorted(info.corpus["files"])) == (4, ["ct", "mr", "pet"])


def test_what_is_no_regular_file_ends_nothing(images):
    os.mkfifo(images / "ct/pipe.png")
    (images / "ct/dangling.png").symlink_to(images / "nowhere.png")
    (images / "ct/loop").symlink_to(images)
    (images / "ct/linked.png").symlink_to(images / "c.png")
    (images / "ct/folder.png").mkdir()
    index = read_corpus(Corpus(files=[f"{images}/"]))
    assert set(captions(index)) == {*ALL, "ct/linked"}
    assert counts(index)["no regular file"] == 2
    assert counts(index)["link to a folder that is read already"] == 1


def test_a_name_that_is_not_utf8_is_counted(images, png):
    Path(os.fsdecode(os.fsencode(images) + b"/caf\xe9.png")).write_bytes(png)
    index = read_corpus(Corpus(files=[f"{images}/"]))
    assert captions(index) == ALL
    assert index.account.passed["name of a file that is not UTF-8"].first.endswith(r"caf\xe9.png")


def test_the_files_layout_of_img2dataset_is_read(tmp_path, png):
    folder = tmp_path / "laion"
    for shard in ("00000", "00001"):
        (folder / shard).mkdir(parents=True)
        (folder / f"{shard}.parquet").write_bytes(b"metadata")
        (folder / f"{shard}_stats.json").write_text('{"count": 2}')
        for number in range(2):
            stem = folder / shard / f"{shard}{number:04d}"
            stem.with_suffix(".jpg").write_bytes(png)
            stem.with_suffix(".txt").write_text(f"caption {shard} {number}")
            stem.with_suffix(".json").write_text(json.dumps({"license": "CC0", "caption": "other"}))
    index = read_corpus(Corpus(files=[f"{folder}/"]))
    assert captions(index) == {
        f"{shard}/{shard}{n:04d}": f"caption {shard} {n}" for shard in ("00000", "00001") for n in range(2)
    }
    assert set(index.table["license"].to_pylist()) == {"CC0"}
    assert counts(index)["suffix .parquet is not taken"] == 2


def test_a_folder_of_an_object_storage_is_read_too(images, tmp_path):
    bucket = locate(f"memory://folder{tmp_path}")
    for path in images.rglob("*"):
        if path.is_file():
            bucket.write(f"images/{path.relative_to(images)}", path.read_bytes())
    for pattern, expected in (("images/", ALL), ("images/**/*.png", {"c": None, "ct/a": "caption a"})):
        index = read_corpus(Corpus(files=[f"{bucket.uri}/{pattern}"]))
        assert captions(index) == expected
        row = index.table.to_pylist()[1]
        assert ImageSource(index.root).fetch(row["uri"], row["member"], sha256=row["image_sha256"])


def test_a_folder_of_many_files_is_one_small_entry(tmp_path, png):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.png").write_bytes(png)
        (folder / f"{number}.txt").write_text(str(number))
    info, report = index_corpus(tmp_path / "store", Corpus(files=[f"{folder}/*.png"]), range_rows=1024, chunk_rows=64)
    assert (info.rows, report.usable, report.members) == (3000, 3000, 6000)
    assert list(info.corpus["files"]) == ["many/*.png"]
    assert len((tmp_path / "store/store.json").read_bytes()) < 2000
