"""Bytes are compared with the checksums of their receipt, where and when they are used."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from store.errors import CorruptChunkError
from store.format.arrays import shard_key
from store.io.location import locate
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.conftest import RANGE_ROWS, WIDTH
from tests.store.make_fixture import FIXTURE

CHUNK_BYTES = 2 * WIDTH * 2
OK_ROW, BAD_ROW = RANGE_ROWS, RANGE_ROWS + 2
"""In the first and the second chunk of range 1."""


def flip(location, key, byte):
    data = bytearray(location.read(key))
    data[byte] ^= 0x80
    location.write(key, bytes(data))


def read(store, row, *, side="text"):
    return store.read(np.array([row]), teacher="alpha", side=side)


@pytest.mark.parametrize("verify", ["first", "always"])
def test_a_flipped_bit_is_noticed_where_its_chunk_is_read_and_only_there(full, verify):
    key = shard_key("alpha", "text", 1)
    flip(full.location, key, CHUNK_BYTES + 1)
    store = FeatureStore(full.location, verify=verify)
    for _ in range(2):
        assert read(store, OK_ROW).any()
        assert read(store, BAD_ROW, side="image").any()
        with pytest.raises(CorruptChunkError, match=rf"{key}: chunk 1 is damaged: .*alpha, range 1") as caught:
            read(store, BAD_ROW)
    assert f"python -m store repair {full.location}" in caught.value.hint
    assert read(FeatureStore(full.location, verify="never"), BAD_ROW).any()


def test_a_flipped_bit_of_features_in_eight_bits_is_noticed(units):
    spec = units.spec("gamma", stored_dtype="int8")
    units.register("gamma", stored_dtype="int8")
    units.commit(1, teacher="gamma", spec=spec)
    store = FeatureStore(units.path)
    assert store.read(np.arange(4, 8), teacher="gamma", side="image").any(axis=1).all()
    flip(units.location, shard_key("gamma", "image", 1), 3)
    with pytest.raises(CorruptChunkError, match="chunk 0 is damaged"):
        FeatureStore(units.path).read(np.array([4]), teacher="gamma", side="image")


def test_bytes_that_change_under_the_reader_are_noticed_by_always(units):
    """In a folder, where a file is changed in place and its time put back, so that nothing tells."""
    units.register()
    units.commit(0)
    path = units.path / shard_key("alpha", "image", 0)
    stores = {verify: FeatureStore(units.path, verify=verify) for verify in ("first", "always")}
    for store in stores.values():
        read(store, 0, side="image")
    before = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    read(stores["first"], 0, side="image")
    with pytest.raises(CorruptChunkError, match="chunk 0 is damaged"):
        read(stores["always"], 0, side="image")


@pytest.mark.parametrize("name", ["status", "similarity"])
def test_a_damaged_column_is_noticed(full, name):
    key = shard_key("alpha", name, 2)
    flip(full.location, key, 1)
    with pytest.raises(CorruptChunkError, match=f"{key}: is damaged.*alpha, range 2"):
        getattr(FeatureStore(full.location), name)("alpha")
    assert len(getattr(FeatureStore(full.location, verify="never"), name)("alpha")) == 10


def test_a_store_of_format_1_is_read_and_says_once_that_only_sizes_are_checked(tmp_path, caplog):
    store = FeatureStore(damage.as_format_1(damage.copy(locate(FIXTURE / "store"), locate(tmp_path / "old"))))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ChunkReader(store).read(np.arange(8), teacher="alpha", side="image").any()
    [message] = [record.getMessage() for record in caplog.records if "checksums" in record.getMessage()]
    assert f"python -m store upgrade {store.location}" in message


def test_one_row_costs_the_same_however_many_ranges_there_are(units, tmp_path):
    """Neither receipts nor parts are listed, and none is read but the row's own."""
    units.register()
    costs = []
    for range_id in range(3):
        units.commit(range_id)
        place = damage.copy(units.location, locate(f"memory://one-row/{tmp_path.name}/{range_id}"))
        store = FeatureStore(place)
        before = place.requests.copy()
        assert read(store, 0).any()
        costs.append(place.requests - before)
    assert costs[0]["list"] == 1, "the specs"
    assert costs == [costs[0]] * 3
