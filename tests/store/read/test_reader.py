"""Reading a store: receipts decide what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from store.errors import FormatVersionError, StoreError, StoreNotFoundError
from store.format.records import Status, receipt_key, spec_key
from store.inspect.summary import summarize
from store.read.reader import FeatureStore


@pytest.fixture
def full(units):
    """A store with all three ranges of one teacher; row 5 has no image."""
    units.register()
    for range_id in range(3):
        features = units.features(range_id)
        if range_id == 1:
            features.status[1] = Status.BAD_IMAGE
        units.commit(range_id, features=features)
    return units


def expected(units, side):
    values = np.concatenate([getattr(units.features(range_id), side) for range_id in range(3)]).astype(np.float16)
    values[5] = 0
    return values


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("rows", [slice(0, 10), slice(3, 9), slice(4, 4), [7], [9, 0, 5, 0, 3]], ids=str)
def test_rows_come_in_the_order_asked_for(full, side, rows):
    rows = rows if isinstance(rows, slice) else np.array(rows)
    read = FeatureStore(full.path).read(rows, teacher="alpha", side=side)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, expected(full, side)[rows])


def test_status_and_similarity_cover_every_row(full):
    store = FeatureStore(full.path)
    assert store.status("alpha").tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    cosine = (expected(full, "image").astype(np.float64) * expected(full, "text")).sum(axis=1)
    np.testing.assert_allclose(store.similarity("alpha"), cosine, atol=2e-3)
    assert store.similarity("alpha").dtype == np.float32
    assert store.is_complete("alpha")


def check_second_range_is_missing(units):
    store = FeatureStore(units.path)
    assert store.committed_rows("alpha").tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert store.status("alpha").tolist() == [1] * 4 + [0] * 4 + [1] * 2
    assert not store.similarity("alpha")[4:8].any()
    for rows in (slice(2, 10), np.array([9, 6, 2])):
        read = store.read(rows, teacher="alpha", side="image")
        hidden = expected(units, "image")
        hidden[4:8] = 0
        np.testing.assert_array_equal(read, hidden[rows])
    assert not store.is_complete("alpha")


def test_a_range_without_receipt_is_missing_though_its_bytes_are_there(full):
    (full.path / receipt_key("alpha", 1)).unlink()
    assert (full.path / "features.zarr/alpha/image/c/1/0").stat().st_size > 0
    check_second_range_is_missing(full)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"teacher": "alpha"}'])
def test_a_range_with_a_garbage_receipt_is_missing(full, content):
    (full.path / receipt_key("alpha", 1)).write_bytes(content)
    check_second_range_is_missing(full)


def test_a_range_with_a_receipt_of_another_spec_is_missing(full):
    path = full.path / receipt_key("alpha", 1)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "spec_hash": "00"}))
    check_second_range_is_missing(full)


def test_a_spec_that_was_changed_on_the_disk_is_told_once(full, caplog):
    path = full.path / spec_key("alpha")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "weights_sha256": "0" * 64}))
    store = FeatureStore(full.path)
    assert not store.available().any()
    told = [record.getMessage() for record in caplog.records if "another spec" in record.getMessage()]
    assert len(told) == 1
    assert "store verify" in told[0]


def test_a_range_that_was_never_written_is_missing(units):
    units.register()
    units.commit(0)
    units.commit(2)
    check_second_range_is_missing(units)


def test_teachers_are_those_with_a_spec_and_another_is_refused_with_their_names(full):
    full.register("beta")
    store = FeatureStore(full.path)
    assert store.teachers == ["alpha", "beta"]
    assert store.spec("alpha") == full.spec()
    assert not store.is_complete("beta")
    with pytest.raises(StoreError, match="no teacher 'gamma' in this store; it has alpha, beta"):
        store.spec("gamma")


def test_modalities_come_with_none_where_unknown(full):
    assert FeatureStore(full.path).modality().tolist() == ["xray", "ct", None] * 3 + ["xray"]


def test_images_come_from_another_root_if_the_corpus_moved(full, tmp_path):
    pair = full.pairs.read(3, 4).to_pylist()[0]
    here = FeatureStore(full.path).images.fetch(pair["uri"], pair["member"])
    (tmp_path / "corpus").rename(tmp_path / "moved")
    moved = FeatureStore(full.path, corpus_root=tmp_path / "moved")
    assert moved.images.fetch(pair["uri"], pair["member"]) == here


def test_a_folder_without_store_is_refused(tmp_path):
    with pytest.raises(StoreNotFoundError, match=r"no feature store is there \(store\.json is missing\)"):
        FeatureStore(tmp_path)


def change_info(units, **changes):
    path = units.path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def test_a_store_of_another_version_is_refused_naming_both(full):
    change_info(full, version=3)
    with pytest.raises(FormatVersionError, match="in store format version 3, this program reads versions 1 and 2"):
        FeatureStore(full.path)


def test_a_receipt_of_another_version_is_refused_rather_than_passed_over(full):
    path = full.path / receipt_key("alpha", 1)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": 3}))
    with pytest.raises(FormatVersionError, match=r"r000001\.json: written in store format version 3"):
        FeatureStore(full.path).status("alpha")


def test_a_store_json_with_an_unknown_field_is_refused(full):
    change_info(full, chunkrows=2)
    with pytest.raises(StoreError, match="not a valid StoreInfo record") as caught:
        FeatureStore(full.path)
    assert "chunkrows" in str(caught.value)


def test_a_pair_table_of_another_length_is_refused(full):
    change_info(full, rows=11)
    with pytest.raises(StoreError, match=r"the pair table has 10 rows, store\.json says 11"):
        FeatureStore(full.path).pairs.read(0, 1)


def test_a_damaged_or_lost_pair_table_is_refused(full):
    part = full.path / "pairs/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(StoreError, match="cannot be read"):
        FeatureStore(full.path).pairs.read(0, 1)
    part.unlink()
    with pytest.raises(StoreNotFoundError, match="is missing"):
        FeatureStore(full.path).pairs.read(0, 1)


def test_a_store_without_teachers_has_nothing_available(units):
    assert FeatureStore(units.path).available().shape == (10, 0)


def test_rows_that_were_appended_and_not_extracted_yet_read_as_missing(full):
    before = FeatureStore(full.path)
    path = full.path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "rows": 13, "parts": [10, 3]}))
    store = FeatureStore(full.path)
    assert store.status("alpha").tolist() == [*before.status("alpha").tolist(), 0, 0, 0]
    assert store.similarity("alpha")[10:].tolist() == [0, 0, 0]
    assert not store.is_complete("alpha")
    whole = store.read(slice(None), teacher="alpha", side="text")
    assert np.array_equal(whole[:10], before.read(slice(None), teacher="alpha", side="text"))
    assert not whole[10:].any()
    picked = store.read(np.array([12, 3, 3]), teacher="alpha", side="text")
    assert np.array_equal(picked, whole[[12, 3, 3]])


def test_a_store_whose_pair_table_is_gone_is_not_summarized_as_complete(full):
    for part in (full.path / "pairs").glob("part-*.parquet"):
        part.unlink()
    with pytest.raises(StoreError, match=r"the pair table.* is missing"):
        summarize(FeatureStore(full.path))
