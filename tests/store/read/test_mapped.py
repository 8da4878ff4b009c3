"""Rows gathered out of mapped store shards against the same rows read through Zarr."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from store.errors import CorruptChunkError
from store.format.arrays import shard_key
from store.format.records import SIDES, receipt_key
from store.read import chunks, mapped, stored_side
from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore
from tests.benchmarks.store.synthetic_store import make_store
from tests.store import damage
from tests.store.read.through_zarr import through_zarr

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are mapped beside each other on Linux only")

ROWS, RANGE_ROWS = 150, 64
CHUNK_ROWS = 16
WIDTH = mmap.PAGESIZE // CHUNK_ROWS // 2
"""So that a chunk of float16 is one page."""


@pytest.fixture
def store(tmp_path):
    """Two teachers over three ranges; half of the rows of one have features."""
    list(
        make_store(
            tmp_path / "store",
            rows=ROWS,
            widths={"whole": WIDTH, "half": WIDTH},
            present={"whole": 1.0, "half": 0.5},
            range_rows=RANGE_ROWS,
            chunk_rows=CHUNK_ROWS,
        )
    )
    return FeatureStore(tmp_path / "store")


def read_all(store, rows):
    return ChunkReader(store).read_many([Ask(teachers=("whole", "half"), rows_B=rows)])


def assert_same_as_zarr(store, rows):
    for (teacher, side), features_BD in read_all(store, rows).items():
        np.testing.assert_array_equal(features_BD, through_zarr(store, rows, teacher=teacher, side=side))


def forbid_reading(monkeypatch):
    """Make every way to read but the mapped one fail."""

    def fail(*_, **__):
        raise AssertionError("a chunk was read")

    monkeypatch.setattr(stored_side.StoredSide, "_read", fail)


def test_rows_of_mapped_shards_are_those_that_zarr_reads(store, monkeypatch):
    forbid_reading(monkeypatch)
    rng = np.random.default_rng(1)
    assert_same_as_zarr(store, rng.permutation(ROWS))
    assert_same_as_zarr(store, rng.integers(0, ROWS, 400))
    assert_same_as_zarr(store, np.empty(0, np.int64))


def test_ranges_are_mapped_when_they_are_first_asked_for(store, monkeypatch):
    forbid_reading(monkeypatch)
    reader = ChunkReader(store)
    for first in (0, 2 * RANGE_ROWS, RANGE_ROWS, 0):
        rows = np.arange(first, first + 20)
        found = reader.read_many([Ask(teachers=("whole",), rows_B=rows)])
        np.testing.assert_array_equal(found["whole", "text"], through_zarr(store, rows, teacher="whole", side="text"))


def test_what_nobody_committed_is_zeros_whatever_bytes_lie_there(store):
    store.location.delete([receipt_key("whole", 1)])
    reopened = FeatureStore(store.location)
    rows = np.arange(RANGE_ROWS - 3, 2 * RANGE_ROWS + 3)
    assert not ChunkReader(reopened).read(rows[3:-3], teacher="whole", side="image").any()
    assert_same_as_zarr(reopened, rows)


def test_a_range_that_grew_since_it_was_committed_has_only_its_first_rows(store):
    damage.append_pairs(store.location, 9)
    grown = FeatureStore(store.location)
    assert grown.info.rows == ROWS + 9
    assert_same_as_zarr(grown, np.arange(2 * RANGE_ROWS, ROWS + 9))


def test_a_shard_that_was_cut_off_is_named(store, tmp_path):
    path = tmp_path / "store" / shard_key("half", "text", 1)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptChunkError, match=r"half/text/c/1/0.*expected"):
        read_all(FeatureStore(tmp_path / "store"), np.arange(ROWS))


def test_a_shard_that_is_gone_is_named(store, tmp_path):
    (tmp_path / "store" / shard_key("half", "text", 1)).unlink()
    with pytest.raises(CorruptChunkError, match=r"half/text/c/1/0.*not there"):
        read_all(FeatureStore(tmp_path / "store"), np.arange(ROWS))


def test_a_replaced_shard_does_not_change_what_was_mapped(store, tmp_path):
    rows, reader = np.arange(RANGE_ROWS), ChunkReader(store)
    before = reader.read(rows, teacher="whole", side="image").copy()
    path = tmp_path / "store" / shard_key("whole", "image", 0)
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"")
    np.testing.assert_array_equal(reader.read(rows, teacher="whole", side="image"), before)


def disk_bytes():
    counted = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counted["read_bytes"])


def leave_page_cache(folder):
    os.sync()
    for file in (entry for entry in folder.rglob("*") if entry.is_file()):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_no_more_is_read_from_the_disk_than_the_chunks_that_hold_the_rows(tmp_path):
    """A page that is touched before it was asked for makes Linux read 128 KiB around it, or megabytes."""
    shape = {"range_rows": 8192, "chunk_rows": 64}
    list(make_store(tmp_path / "store", rows=8192, widths={"whole": 256}, present={"whole": 1.0}, **shape))
    reader = ChunkReader(FeatureStore(tmp_path / "store"))
    every_fourth = np.arange(8192).reshape(-1, 64)[2::4].reshape(-1)
    # What is quick, out of the page cache, must not decide how the next rows are read.
    for _ in range(2):
        reader.read(np.arange(8192), teacher="whole", side="image")
    leave_page_cache(tmp_path / "store" / "features.zarr")
    before = disk_bytes()
    found = reader.read(every_fourth, teacher="whole", side="image")
    read = disk_bytes() - before
    if not read:
        pytest.skip("the file system of the temporary folder is not on a disk")
    assert read < 1.1 * found.nbytes


def test_the_chunks_of_the_rows_are_asked_for_and_no_others(store):
    side = ChunkReader(store)._side("whole", "image")
    parts = side.ahead(np.array([130, 3, 40, 20]))
    first, third = ((store.location.path / shard_key("whole", "image", number)).read_bytes() for number in (0, 2))
    expected = [first[begin : begin + mmap.PAGESIZE] for begin in range(0, 3 * mmap.PAGESIZE, mmap.PAGESIZE)]
    assert [ctypes.string_at(*part) for part in parts.tolist()] == [*expected, third[: mmap.PAGESIZE]]


def test_places_are_a_slice_where_they_are_one_stretch():
    for code in range(1, 64):
        chosen = np.array([code >> place & 1 for place in range(6)], bool)
        places, expected = stored_side._places(chosen), np.flatnonzero(chosen)
        np.testing.assert_array_equal(np.arange(6)[places], expected)
        assert isinstance(places, slice) == bool((np.diff(expected) == 1).all())


def test_where_the_system_allows_no_more_mappings_chunks_are_read(store, monkeypatch):
    monkeypatch.setattr(mapped, "_overlay", lambda *_: False)
    assert_same_as_zarr(store, np.random.default_rng(3).permutation(ROWS))


def test_several_threads_gather_different_sides(store, monkeypatch):
    forbid_reading(monkeypatch)
    used = set()
    gather = stored_side.StoredSide._gather

    def noted(self, *arguments):
        used.add(threading.get_ident())
        barrier.wait(30)
        return gather(self, *arguments)

    barrier = threading.Barrier(2)
    monkeypatch.setattr(stored_side.StoredSide, "_gather", noted)
    rows = np.arange(ROWS)
    found = ChunkReader(store, threads=2).read_many([Ask(teachers=("whole",), rows_B=rows)])
    assert len(used) == 2
    for side in SIDES:
        np.testing.assert_array_equal(found["whole", side], through_zarr(store, rows, teacher="whole", side=side))


def mappings(store):
    """Count the mapped files of one store: other tests of this process may still hold those of theirs."""
    root = store.location.uri.removeprefix("file://")
    return sum(entry.path.startswith(root) for entry in psutil.Process().memory_maps(grouped=False))


def test_mapped_files_are_let_go_with_the_reader(store):
    reader = chunks.ChunkReader(store)
    reader.read(np.arange(ROWS), teacher="whole", side="image")
    assert mappings(store) == store.info.ranges
    del reader
    assert mappings(store) == 0


@pytest.fixture
def of_many_ranges(tmp_path):
    """A store of 40 ranges."""
    shape = {"range_rows": 2 * CHUNK_ROWS, "chunk_rows": CHUNK_ROWS}
    rows = 40 * shape["range_rows"]
    list(make_store(tmp_path / "many", rows=rows, widths={"whole": WIDTH}, present={"whole": 1.0}, **shape))
    return FeatureStore(tmp_path / "many")


def test_no_more_files_are_mapped_than_the_bound_however_many_are_asked_for(of_many_ranges, monkeypatch):
    forbid_reading(monkeypatch)
    monkeypatch.setattr(stored_side, "MAPS", 16)
    store, rng = of_many_ranges, np.random.default_rng(5)
    reader, most = ChunkReader(store), 0
    for _ in range(30):
        rows = (rng.permutation(40)[:8, None] * store.info.range_rows + rng.integers(0, 32, 20)).reshape(-1)
        found = reader.read_many([Ask(teachers=("whole",), rows_B=rows)])
        for side in SIDES:
            np.testing.assert_array_equal(found["whole", side], through_zarr(store, rows, teacher="whole", side=side))
        most = max(most, mappings(store))
    assert most == 16


def test_a_window_of_more_files_than_the_bound_is_read_into_a_buffer(of_many_ranges, monkeypatch):
    monkeypatch.setattr(stored_side, "MAPS", 16)
    store, rows = of_many_ranges, np.random.default_rng(6).permutation(of_many_ranges.info.rows)
    found = ChunkReader(store).read(rows, teacher="whole", side="text")
    np.testing.assert_array_equal(found, through_zarr(store, rows, teacher="whole", side="text"))
    assert mappings(store) == 0


def test_few_open_files_suffice_for_a_store_of_many_ranges(of_many_ranges):
    """Mapped or read: no file stays open."""
    code = (
        "import resource, sys, numpy as np\n"
        "from store.read import mapped, stored_side\n"
        "from store.read.chunks import ChunkReader\n"
        "from store.read.reader import FeatureStore\n"
        "store = FeatureStore(sys.argv[1]); store.receipts('whole'); stored_side.MAPS = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "rows = np.arange(store.info.rows)\n"
        "print(np.linalg.norm(ChunkReader(store).read(rows, teacher='whole', side='image').astype('f4'), axis=1).min())"
    )
    for maps in ("8192", "0"):
        arguments = [sys.executable, "-c", code, of_many_ranges.location.uri, maps]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert float(done.stdout or "nan") > 0.99, done.stderr


def test_what_a_store_has_mapped_is_let_go_with_the_store(store):
    opened = FeatureStore(store.location)
    opened.read(np.arange(ROWS), teacher="whole", side="image")
    assert mappings(store) == store.info.ranges
    del opened
    assert mappings(store) == 0
