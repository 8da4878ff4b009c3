"""The quick ways to whole columns of a store, against the slow ones."""

from __future__ import annotations

import gc
import json

import numpy as np
import pyarrow as pa
import pytest

from store.errors import StoreError, StoreNotFoundError
from store.format.arrays import encode_shard, rows_in_order
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA
from store.format.records import StoreInfo, receipt_key
from store.io.location import locate
from store.read.categories import categorize, read_categories
from store.read.reader import COLUMN_DTYPES, FeatureStore
from tests.store.read.through_zarr import zarr_arrays

INFO = StoreInfo(rows=100, range_rows=24, chunk_rows=6, created_by="test", corpus_root="/", corpus={})


@pytest.mark.parametrize("name", ["status", "similarity"])
@pytest.mark.parametrize("rows", [24, 23, 18, 7, 1])
def test_a_shard_as_it_is_written_is_taken_at_once(name, rows):
    values = np.random.default_rng(rows).integers(0, 9, rows).astype(COLUMN_DTYPES[name])
    shard = encode_shard(name, values, stored_dtype="float16", info=INFO)
    found = rows_in_order(shard, dtype=COLUMN_DTYPES[name], rows=rows, info=INFO)
    assert found.dtype == COLUMN_DTYPES[name]
    assert np.array_equal(found, values)


def test_any_other_shard_is_refused():
    shard = encode_shard("status", np.ones(24, np.uint8), stored_dtype="float16", info=INFO)
    swapped = shard[:24] + shard[40:56] + shard[24:40] + shard[56:]
    for data in (b"", shard[:-1], shard[1:], swapped):
        assert rows_in_order(data, dtype=np.dtype(np.uint8), rows=24, info=INFO) is None


@pytest.fixture
def two_ranges(units):
    units.register()
    units.commit(0)
    units.commit(2)
    return units


def test_a_column_is_what_zarr_reads_where_a_receipt_is(two_ranges):
    store = FeatureStore(two_ranges.path)
    stored = np.asarray(zarr_arrays(two_ranges.location, "alpha")["similarity"][...])
    stored[4:8] = 0
    assert stored.any()
    assert np.array_equal(store.similarity("alpha"), stored)


def test_receipts_are_read_with_the_collector_held_back_and_let_go_again(two_ranges):
    assert gc.isenabled()
    (two_ranges.path / receipt_key("alpha", 2)).write_text(json.dumps({"version": 3}))
    with pytest.raises(StoreError):
        FeatureStore(two_ranges.path).receipts("alpha")
    assert gc.isenabled()


def test_categories_are_the_texts_of_the_pair_table(units):
    found = read_categories(units.location, "modality", units.info)
    texts = units.pairs.read(0, 10, ["modality"])["modality"].to_pylist()
    assert found.names == ("ct", "xray")
    assert found.texts().tolist() == texts
    assert found.among(["ct", "mri"]).tolist() == [text == "ct" for text in texts]
    assert not found.among([]).any()


def test_categories_of_the_first_rows_of_format_1_name_only_what_they_have(units):
    short = units.info.model_copy(update={"version": 1, "rows": 1, "parts": None})
    assert read_categories(units.location, "modality", short).names == ("xray",)
    assert categorize([None, None]).texts().tolist() == [None, None]
    assert categorize(["b", None, "a", "b"]).codes_N.tolist() == [1, -1, 0, 1]


def test_a_pair_table_that_is_short_damaged_or_gone_is_named(units):
    with pytest.raises(StoreError, match=r"the pair table has 10 rows, store\.json says 11"):
        read_categories(units.location, "modality", units.info.model_copy(update={"rows": 11, "parts": [11]}))
    part = units.path / "pairs/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(StoreError, match="the pair table cannot be read"):
        read_categories(units.location, "modality", units.info)
    part.unlink()
    with pytest.raises(StoreNotFoundError, match="is missing"):
        read_categories(units.location, "modality", units.info)


def test_categories_of_a_table_of_several_parts_in_memory(tmp_path):
    place = locate(f"memory://{tmp_path.name}")
    writer = PairWriter(place, range_rows=2, part_rows=4)
    texts = ["b", "a", None, "b", "c", None, "a", "c", "b"]
    columns = {field.name: pa.nulls(9, field.type) for field in PAIR_SCHEMA if field.name != "row"}
    columns |= {"key": pa.array([str(row) for row in range(9)]), "modality": pa.array(texts)}
    writer.add(pa.table(columns))
    assert writer.close() == [4, 4, 1]
    info = INFO.model_copy(update={"rows": 9, "range_rows": 2, "parts": writer.parts})
    assert read_categories(place, "modality", info).texts().tolist() == texts
    before = info.model_copy(update={"rows": 8, "parts": [4, 4]})
    assert read_categories(place, "modality", before).texts().tolist() == texts[:8]
    swapped = info.model_copy(update={"parts": [4, 3, 2]})
    with pytest.raises(StoreError, match="the pair table"):
        read_categories(place, "modality", swapped)
