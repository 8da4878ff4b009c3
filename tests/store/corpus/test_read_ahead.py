"""Images are read ahead in few requests: the bytes and the errors are those of single reads, the memory is bounded."""

from __future__ import annotations

import csv
import gc
import io
import re
import tarfile
import threading
import time
import zipfile
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.corpus import read_ahead
from store.corpus.image_source import ImageSource
from store.corpus.read_ahead import ReadAhead
from store.corpus.section import Corpus
from store.errors import FetchError, MMKDError, PairDecodeError
from store.index.merge import read_corpus
from store.io.location import locate
from tests.store.conftest import members_of, picture

IMAGES = 12


def members():
    return [member for number in range(IMAGES) for member in members_of(number)]


def tar(folder):
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, content in members():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def zipped(folder):
    for name, compression in (("a.zip", zipfile.ZIP_STORED), ("b.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / name, "w", compression) as archive:
            for member, content in members():
                archive.writestr(f"{name[0]}/{member}", content)


def parquet(folder):
    columns = {"jpg": [picture(n) for n in range(IMAGES)], "caption": [f"finding {n}" for n in range(IMAGES)]}
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=5)


def npz(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 6, 4, 3), dtype=np.uint8)
    np.savez_compressed(folder / "a.npz", train_images=pixels, train_labels=np.zeros((IMAGES, 1), np.uint8))


def table(folder):
    (folder / "images").mkdir()
    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number in range(IMAGES):
            (folder / "images" / f"{number}.png").write_bytes(picture(number))
            writer.writerow([f"images/{number}.png", f"finding {number}"])


LAYOUTS = {
    "tar": (tar, "*.tar", {}),
    "zip": (zipped, "*.zip", {}),
    "parquet": (parquet, "*.parquet", {}),
    "npz": (npz, "*.npz", {"names": {"labels": ["mucus"]}, "fields": {"caption": "an image of {labels}"}}),
    "files": (table, "*.csv", {}),
}


@pytest.fixture
def corpus_of(tmp_path, s3):
    """Write a corpus, index it and copy it to the storage; return its rows, its folder and its place there."""

    def make(layout):
        write, files, settings = LAYOUTS[layout]
        folder = tmp_path / "corpus"
        folder.mkdir()
        write(folder)
        rows = read_corpus(Corpus(files=[str(folder / files)], **settings)).table.to_pylist()
        assert len(rows) == (2 * IMAGES if layout == "zip" else IMAGES)
        place = locate(f"s3://bucket/{tmp_path.name}")
        # Through the server, which remembers what was in its folders.
        for path in filter(Path.is_file, folder.rglob("*")):
            place.write(path.relative_to(folder).as_posix(), path.read_bytes())
        return rows, folder, place

    return make


@pytest.fixture
def tars(corpus_of):
    """The rows of a tar on the storage, its images, and the place of the file."""
    rows, _, place = corpus_of("tar")
    return rows, ImageSource(place), place


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bytes_are_those_of_single_reads_on_a_storage_and_on_a_disk(corpus_of, layout):
    rows, folder, place = corpus_of(layout)
    alone = ImageSource(folder)
    singly = [alone.fetch(row["uri"], row["member"], sha256=row["image_sha256"]) for row in rows]
    for root in (place, folder):
        with ReadAhead(ImageSource(root), connections=3) as ahead, ThreadPoolExecutor(4) as pool:
            takes = ahead.request(rows)
            assert list(pool.map(lambda take: take(), takes)) == singly
            assert [take() for take in takes[::-1]] == singly[::-1], "each may be taken again"
        assert bool(ahead._threads) == (root == place)


def test_neighbours_cost_one_request_in_any_order_of_rows(tars, s3):
    rows, images, _ = tars
    s3.requests.clear()
    with ReadAhead(images) as ahead:
        for take in ahead.request([*rows[::-1], rows[0]]):
            take()
    assert s3.requests == {"GET": 1}


def test_a_block_is_bounded_and_no_wide_gap_is_read(tars, s3, monkeypatch):
    rows, images, _ = tars
    ends = [row["member"]["offset"] + row["member"]["nbytes"] for row in rows]
    gap = max(row["member"]["offset"] - end for row, end in zip(rows[1:], ends, strict=False))
    read, part = [], images.part
    monkeypatch.setattr(images, "part", lambda uri, offset, nbytes: read.append(nbytes) or part(uri, offset, nbytes))

    def requests(chosen):
        read.clear()
        with ReadAhead(images) as ahead:
            for take in ahead.request(chosen):
                take()
        return len(read)

    monkeypatch.setattr(read_ahead, "GAP_BYTES", gap)
    assert requests(rows) == 1
    assert requests(rows[::2]) == IMAGES / 2
    assert sum(read) == sum(row["member"]["nbytes"] for row in rows[::2])
    whole = ends[3] - rows[0]["member"]["offset"]
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", whole + 512)
    assert requests(rows) == IMAGES / 4
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", 1)
    assert requests(rows) == IMAGES, "an image that is larger than a block is read whole"


def errors_of(rows, take_of):
    found = []
    for row in rows:
        with pytest.raises(MMKDError) as caught:
            take_of(row)()
        # A storage's refusal says how long it took.
        found.append((type(caught.value), re.sub(r"[\d.]+[mµ]?s\b", "", str(caught.value)), caught.value.hint))
    return found


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_is_wrong_with_an_archive_is_said_in_the_words_of_single_reads(tars, damage):
    rows, images, place = tars
    content = bytearray(place.read("a.tar"))
    middle = rows[IMAGES // 2]["member"]["offset"] + 10
    content[middle] ^= 1
    place.write("a.tar", bytes(content if damage == "changed" else content[:middle]))
    if damage == "gone":
        place.delete(["a.tar"])
    first_bad = {"changed": IMAGES // 2, "cut": IMAGES // 2, "gone": 0}[damage]
    bad = rows[first_bad : first_bad + 1] if damage == "changed" else rows[first_bad:]
    good = [row for row in rows if row not in bad]

    def singly(row):
        return lambda: images.fetch(row["uri"], row["member"], sha256=row["image_sha256"])

    with ReadAhead(images) as ahead:
        takes = dict(zip((row["key"] for row in rows), ahead.request(rows), strict=True))
        assert [takes[row["key"]]() for row in good] == [singly(row)() for row in good]
        assert errors_of(bad, lambda row: takes[row["key"]]) == errors_of(bad, singly)


def test_a_row_without_image_and_a_file_that_is_gone_are_errors_of_these_rows_alone(corpus_of):
    rows, _, place = corpus_of("files")
    place.delete([rows[1]["uri"]])
    rows[2] = dict.fromkeys(rows[2])
    with ReadAhead(ImageSource(place)) as ahead:
        first, gone, nothing, last = ahead.request([*rows[:3], rows[-1]])
        assert (first(), last()) == (picture(0), picture(IMAGES - 1))
        with pytest.raises(PairDecodeError, match="no such file"):
            gone()
        with pytest.raises(PairDecodeError, match="no image for this key"):
            nothing()


class Storage:
    """A source of images at a storage that answers when it is told to.

    Attributes:
        asked: the rows that were asked for.
        nbytes: of each image.
    """

    def __init__(self, *, nbytes=0):
        self.asked, self.answers, self.nbytes = [], threading.Event(), nbytes

    def is_far(self, uri):
        return True

    def fetch(self, uri, member, *, sha256=None):
        self.asked.append(uri)
        self.answers.wait()
        if uri.startswith("bad"):
            raise FetchError(f"{uri}: the storage does not answer")
        return bytes(self.nbytes)


def files(*names):
    return [{"uri": name, "member": None, "image_sha256": None} for name in names]


def eventually(condition):
    while not condition():
        time.sleep(0.001)


def settled(storage, number):
    """Wait until so much was asked for, and a moment longer; return how much was asked for then."""
    eventually(lambda: len(storage.asked) >= number)
    time.sleep(0.1)
    return len(storage.asked)


def test_no_more_is_read_ahead_than_is_allowed_and_what_is_wanted_comes_first(monkeypatch):
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 3000)
    storage = Storage(nbytes=1000)
    storage.answers.set()
    with ReadAhead(storage, connections=1) as ahead:
        takes = ahead.request(files(*map(str, range(20))))
        assert settled(storage, 4) == 4, "the size of a file of its own is known only when it is there"
        takes[10]()
        assert storage.asked == ["0", "1", "2", "3", "10"]
        takes[0](), takes[1]()
        assert settled(storage, 7) == 7
        # Whoever fails forgets the callables; what they hold must not stand in the way of others.
        del takes
        again = ahead.request(files("a", "b"))
        eventually(lambda: storage.asked[-2:] == ["a", "b"])
        assert len(again) == 2
        del again
        gc.collect()
        many = ahead.request(files(*map(str, range(100))))
        assert [len(take()) for take in many] == [1000] * 100


def test_failures_do_not_stand_in_the_way_of_what_follows(monkeypatch):
    monkeypatch.setattr(read_ahead, "AHEAD_READS", 4)
    storage = Storage(nbytes=1)
    storage.answers.set()
    with ReadAhead(storage, connections=2) as ahead:
        takes = ahead.request(files(*(f"bad{number}" for number in range(9)), "good"))
        eventually(lambda: "good" in storage.asked)
        for take in takes[:-1]:
            with pytest.raises(FetchError, match="does not answer"):
                take()
        assert takes[-1]() == b"\0"


def test_closing_ends_threads_and_whoever_waits_though_the_storage_does_not_answer(monkeypatch):
    monkeypatch.setattr(read_ahead, "CLOSE_S", 0.1)
    storage = Storage()
    ahead = ReadAhead(storage, connections=2)
    takes = ahead.request(files("a", "b", "c"))
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(take) for take in takes]
        eventually(lambda: len(storage.asked) == 2)
        ahead.close()
        for one in waiting:
            with pytest.raises(CancelledError):
                one.result()
    with pytest.raises(CancelledError):
        ahead.request(files("d"))[0]()
    storage.answers.set()
    for thread in ahead._threads:
        thread.join()
    assert storage.asked == ["a", "b"]
