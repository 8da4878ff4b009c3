"""A store grows step by step as the document says; store/ reads it, and so does a reader of the document alone."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from store.format.pairs import PairTable
from store.index.append import append_corpus
from store.read.reader import FeatureStore
from tests.store import by_the_book as book
from tests.store.conftest import members_of


@pytest.fixture
def full(units):
    """Ten rows in ranges of four, all committed."""
    units.register()
    for range_id in range(3):
        units.commit(range_id)
    return units


@pytest.fixture
def append(full, corpus, write_tar):
    """Append three rows, which fill the last range and begin another."""

    def grow():
        write_tar("corpus/002.tar", [member for number in (10, 11, 12) for member in members_of(number)])
        full.info, _ = append_corpus(full.path, corpus)
        full.pairs = PairTable(full.location, full.info)

    return grow


def check_new_rows_are_missing(units):
    store = FeatureStore(units.path)
    assert store.info.rows == 13
    assert store.status("alpha").tolist() == [1] * 10 + [0] * 3
    assert store.similarity("alpha").astype(bool).tolist() == [True] * 10 + [False] * 3
    there_B = store.read(slice(8, 13), teacher="alpha", side="image").any(axis=1)
    assert there_B.tolist() == [True, True, False, False, False]
    assert store.read(np.array([12, 9]), teacher="alpha", side="text").any(axis=1).tolist() == [False, True]
    assert not store.is_complete("alpha")


def arrays_of(units):
    return {
        name: json.loads((units.path / f"features.zarr/alpha/{name}/zarr.json").read_bytes()) for name in book.ARRAYS
    }


def test_appended_rows_are_missing_though_no_array_has_grown(full, append):
    append()
    assert {metadata["shape"][0] for metadata in arrays_of(full).values()} == {10}
    check_new_rows_are_missing(full)


def test_arrays_grow_by_their_shape_alone(full, append):
    before, shards = arrays_of(full), {key: full.location.read(key) for key, _ in full.location.list() if "/c/" in key}
    append()
    full.register()
    for name, metadata in arrays_of(full).items():
        assert metadata == {**before[name], "shape": [13, *before[name]["shape"][1:]]}
    assert {key: full.location.read(key) for key, _ in full.location.list() if "/c/" in key} == shards
    check_new_rows_are_missing(full)


def test_the_receipt_of_the_partial_range_says_how_far_it_reaches_until_it_is_redone(full, append):
    append()
    full.register()
    read = book.read_features(full.path, "alpha")
    assert [(receipt["start"], receipt["stop"]) for receipt in read.receipts] == [(0, 4), (4, 8), (8, 10)]
    assert read.status.tolist() == [1] * 10 + [0] * 3
    assert book.damage(full.path, "alpha") == []
    full.commit(2)
    read = book.read_features(full.path, "alpha")
    assert [(receipt["start"], receipt["stop"]) for receipt in read.receipts] == [(0, 4), (4, 8), (8, 12)]
    assert read.status.tolist() == [1] * 12 + [0]
    assert book.damage(full.path, "alpha") == []


def test_whole_ranges_are_left_alone(full, append):
    append()
    full.register()
    before = {
        key: full.location.read(key) for key, _ in full.location.list() if key.startswith(("features", "receipts"))
    }
    for range_id in (0, 1):
        full.commit(range_id, features=full.features(range_id, seed=9))
    assert {key: full.location.read(key) for key in before} == before


def test_the_pair_table_keeps_its_rows_and_its_row_groups_stay_ranges(full, append):
    before = book.read_pairs(full.path)
    append()
    after = book.read_pairs(full.path)
    assert after[:10] == before
    assert [pair["row"] for pair in after] == list(range(13))
    files = [pq.ParquetFile(path) for path in sorted((full.path / "pairs").glob("part-*.parquet"))]
    groups = [file.metadata.row_group(group).num_rows for file in files for group in range(file.num_row_groups)]
    assert groups == [4, 4, 2, 2, 1]
    keys = pq.read_table(full.path / "keys.parquet")
    hashes = sorted((book.key_hash(pair["key"]), pair["row"]) for pair in after)
    assert list(zip(keys["key_hash"].to_pylist(), keys["row"].to_pylist(), strict=True)) == hashes


def test_a_store_that_was_opened_before_an_append_reads_on_as_it_was(full, append):
    opened = FeatureStore(full.path)
    before = opened.read(slice(None), teacher="alpha", side="image")
    append()
    full.register()
    np.testing.assert_array_equal(opened.read(slice(None), teacher="alpha", side="image"), before)
    assert opened.status("alpha").tolist() == [1] * 10
    assert opened.similarity("alpha").shape == (10,)
