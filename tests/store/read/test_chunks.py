"""Chunks read from the bytes of shards against the same rows read through Zarr."""

from __future__ import annotations

import gc
import itertools
import json
import shutil

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import CorruptChunkError
from store.format.arrays import shard_key
from store.format.records import SIDES, receipt_key
from store.io.location import locate
from store.read import stored_side
from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore
from store.read.stored_side import RecycledArrays, rounded_up
from tests.store import damage
from tests.store.make_fixture import CHUNK_ROWS, FIXTURE, RANGE_ROWS, ROWS
from tests.store.read.through_zarr import through_zarr

TEACHERS = ("alpha", "beta")
"""float16 and complete; int8 with a hole."""

row_lists = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=30), min_size=1, max_size=4)


@pytest.fixture
def folder(tmp_path):
    """A copy of the fixture's store, as a location."""
    shutil.copytree(FIXTURE / "store", tmp_path / "store")
    return locate(tmp_path / "store")


@pytest.fixture
def memory(tmp_path):
    """A copy of it on an object storage."""
    return damage.copy(locate(FIXTURE / "store"), locate(f"memory://chunks/{tmp_path.name}"))


def asked(rows, soon=None, teachers=TEACHERS):
    return Ask(
        teachers=teachers,
        rows_B=np.array(rows, np.int64),
        soon=None if soon is None else np.array(soon, np.int64),
    )


def assert_same_as_zarr(store, reader=None, rows=None):
    rows = np.random.default_rng(1).permutation(store.info.rows) if rows is None else np.array(rows, np.int64)
    found = (reader or ChunkReader(store)).read_many([asked(rows)])
    for (teacher, side), features_BD in found.items():
        expected = through_zarr(store, rows, teacher=teacher, side=side)
        assert features_BD.dtype == expected.dtype
        np.testing.assert_array_equal(features_BD, expected)
        np.testing.assert_array_equal(ChunkReader(store).read(rows, teacher=teacher, side=side), expected)


@settings(deadline=None)
@given(spans=row_lists, hinted=st.booleans(), threads=st.integers(1, 3))
def test_rows_of_any_order_and_number_are_those_that_zarr_reads(spans, hinted, threads):
    store = FeatureStore(FIXTURE / "store")
    reader = ChunkReader(store, threads=threads)
    for now, soon in itertools.pairwise([*spans, None]):
        found = reader.read_many([asked(now, soon if hinted else None)])
        for teacher, side in itertools.product(TEACHERS, SIDES):
            expected = through_zarr(store, np.array(now, np.int64), teacher=teacher, side=side)
            np.testing.assert_array_equal(found[teacher, side], expected)


def test_a_whole_range_is_what_zarr_reads(folder):
    folder.delete([receipt_key("alpha", 1)])
    damage.append_pairs(folder, 2)
    store = FeatureStore(folder)
    for teacher, side, number in itertools.product(TEACHERS, SIDES, range(store.info.ranges)):
        expected = through_zarr(store, np.arange(*store.info.bounds(number)), teacher=teacher, side=side)
        rows = np.arange(*store.info.bounds(number))
        found = ChunkReader(store).read(rows, teacher=teacher, side=side)
        np.testing.assert_array_equal(found, expected)


def test_memory_is_used_again_only_when_nobody_holds_any_part_of_it():
    arrays, shape = RecycledArrays(), (300, 2048)
    first = arrays.empty(shape, np.dtype(np.float16))
    first[:] = 1
    part, place = first[5:9, ::2], first.ctypes.data
    del first
    gc.collect()
    second = arrays.empty(shape, np.dtype(np.float16))
    second[:] = 2
    assert (part == 1).all()
    del part
    gc.collect()
    assert arrays.empty((299, 2048), np.dtype(np.float16)).ctypes.data == place


def test_sizes_of_memory_are_few_and_hardly_larger_than_what_is_asked_for():
    for nbytes in (1, 8, 15, 2**20, 2**20 + 1, 10**9):
        size = rounded_up(nbytes)
        assert nbytes <= size <= nbytes * 9 / 8
        assert rounded_up(size) == size


def test_rows_wider_than_a_block_are_copied_one_by_one(folder, memory, monkeypatch):
    monkeypatch.setattr(stored_side, "BLOCK_BYTES", 1)
    for location in (folder, memory):
        assert_same_as_zarr(FeatureStore(location))


def test_a_wrong_guess_of_what_comes_next_changes_nothing():
    store = FeatureStore(FIXTURE / "store")
    reader = ChunkReader(store)
    reader.read_many([asked([0, 5, 19], soon=[1, 2, 3])])
    assert_same_as_zarr(store, reader, rows=[3, 18, 2])


def test_an_object_storage_gives_the_same_rows_with_a_request_per_run_of_chunks(memory):
    store = FeatureStore(memory)
    assert_same_as_zarr(store)
    reader, rows = ChunkReader(store), np.arange(ROWS)
    reader.read(rows, teacher="alpha", side="image")
    before = memory.requests["get"]
    reader.read(rows, teacher="alpha", side="image")
    assert memory.requests["get"] - before == store.info.ranges
    reader.read(np.array([0, 9, 17]), teacher="alpha", side="image")
    assert memory.requests["get"] - before == store.info.ranges + 3


def test_a_long_run_of_an_object_storage_is_asked_for_in_parts_by_all_connections(memory, monkeypatch):
    store = FeatureStore(memory)
    reader, rows = ChunkReader(store), np.arange(RANGE_ROWS)
    expected = reader.read(rows, teacher="alpha", side="image")
    for chunk_parts, threads, requests in ((1, 16, RANGE_ROWS // CHUNK_ROWS), (2, 16, 1), (1, 1, 1)):
        monkeypatch.setattr(stored_side, "PART_BYTES", chunk_parts * expected[:CHUNK_ROWS].nbytes)
        monkeypatch.setattr(stored_side, "THREADS", threads)
        before = memory.requests["get"]
        np.testing.assert_array_equal(reader.read(rows, teacher="alpha", side="image"), expected)
        assert memory.requests["get"] - before == requests


def test_a_chunk_is_read_once_where_spans_and_windows_do_not_meet(memory):
    store, rng = FeatureStore(memory), np.random.default_rng(3)
    # A window is one chunk, a chunk of each range; each span begins in the middle of one and ends in that of the next.
    windows = [rng.permutation(np.arange(first, first + CHUNK_ROWS)) for first in range(0, ROWS, RANGE_ROWS)]
    spans = np.split(np.concatenate(windows), [2, 6, 10])
    reader = ChunkReader(store)
    reader.read_many([asked([0, RANGE_ROWS, 2 * RANGE_ROWS], teachers=("alpha",))])
    before = memory.requests["get"]
    found = [
        reader.read_many([asked(now, soon, teachers=("alpha",))]) for now, soon in itertools.pairwise([*spans, None])
    ]
    assert memory.requests["get"] - before == len(windows) * len(SIDES)
    for now, features in zip(spans, found, strict=True):
        np.testing.assert_array_equal(features["alpha", "text"], through_zarr(store, now, teacher="alpha", side="text"))


def test_rows_that_nobody_committed_are_zeros_whatever_bytes_lie_there(folder):
    folder.delete([receipt_key("alpha", 1)])
    store = FeatureStore(folder)
    rows = np.arange(RANGE_ROWS, 2 * RANGE_ROWS)
    assert not ChunkReader(store).read(rows, teacher="alpha", side="image").any()
    assert_same_as_zarr(store)


def test_appended_rows_are_zeros_until_they_are_extracted(folder):
    damage.append_pairs(folder, 9)
    store = FeatureStore(folder)
    assert store.info.rows == ROWS + 9
    assert not ChunkReader(store).read(np.arange(ROWS, ROWS + 9), teacher="alpha", side="text").any()
    assert_same_as_zarr(store)


def test_chunks_in_another_order_are_refused_and_named(folder):
    key, size = shard_key("alpha", "image", 0), CHUNK_ROWS * 4 * 2
    stored = folder.read(key)
    swapped = stored[size : 2 * size] + stored[:size]
    damage.commit_bytes(folder, "alpha", "image", 0, shard(swapped, [(size, size), (0, size)]))
    with pytest.raises(CorruptChunkError, match=f"{key}: its index does not say that 2 chunks lie in order"):
        ChunkReader(FeatureStore(folder)).read(np.array([0]), teacher="alpha", side="image")


def shard(chunks, index):
    encoded = np.array(index, "<u8").tobytes()
    return chunks + encoded + google_crc32c.value(encoded).to_bytes(4, "little")


@pytest.mark.parametrize("byte", [-1, -9, -20])
@pytest.mark.parametrize("place", ["folder", "memory"])
def test_in_format_1_a_damaged_index_is_noticed_and_named(request, place, byte):
    location = damage.as_format_1(request.getfixturevalue(place))
    key = shard_key("beta", "text", 2)
    data = bytearray(location.read(key))
    data[byte] ^= 4
    location.write(key, bytes(data))
    with pytest.raises(
        CorruptChunkError, match=f"{key}: its index does not say that .* chunks lie in order .beta, range 2"
    ) as caught:
        ChunkReader(FeatureStore(location)).read(np.array([17]), teacher="beta", side="text")
    assert "store repair" in caught.value.hint


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_shard_that_is_gone_or_too_short_is_noticed_and_named(request, place):
    location = request.getfixturevalue(place)
    key = shard_key("alpha", "image", 1)
    damage.truncate(location, key)
    with pytest.raises(CorruptChunkError, match=key):
        ChunkReader(FeatureStore(location)).read(np.array([9]), teacher="alpha", side="image")
    location.delete([key])
    with pytest.raises(CorruptChunkError, match=f"{key}: is committed, but not there"):
        ChunkReader(FeatureStore(location)).read(np.array([9]), teacher="alpha", side="image")


def test_a_receipt_that_does_not_name_the_shard_is_noticed(folder):
    key = receipt_key("alpha", 0)
    receipt = json.loads(folder.read(key))
    del receipt["objects"][shard_key("alpha", "text", 0)]
    folder.write(key, json.dumps(receipt).encode())
    with pytest.raises(CorruptChunkError, match="is not named by its receipt"):
        ChunkReader(FeatureStore(folder)).read(np.array([0]), teacher="alpha", side="text")


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_that_the_store_does_not_have_is_refused(row):
    with pytest.raises(IndexError, match=f"a store that has {ROWS}"):
        ChunkReader(FeatureStore(FIXTURE / "store")).read(np.array([row]), teacher="alpha", side="image")
