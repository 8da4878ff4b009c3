"""A reader of a store that grows serves the rows that it knew, or is opened again."""

from __future__ import annotations

import numpy as np
import pytest

from store.errors import StoreError
from store.format.pair_writer import PairWriter
from store.format.pairs import PairTable
from store.format.records import STORE_KEY, write_record
from store.index.create import index_corpus
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.store.conftest import picture

SIDES = ("image", "text")


def grow(units, rows=5):
    """Append rows, which fill the last range and begin others, and extract them."""
    writer = PairWriter(units.location, range_rows=4, after=units.pairs)
    table = units.pairs.read(0, rows)
    keys = [f"more{row}" for row in range(units.info.rows, units.info.rows + rows)]
    writer.add(table.set_column(table.schema.get_field_index("key"), "key", [keys]))
    parts = writer.close()
    units.info = units.info.model_copy(update={"rows": sum(parts), "parts": parts})
    write_record(units.location, STORE_KEY, units.info)
    units.pairs = PairTable(units.location, units.info)


def extract(units):
    units.register()
    for range_id in range(units.info.ranges):
        units.commit(range_id)


def everything(store):
    sides = [ChunkReader(store).read(np.arange(store.info.rows), teacher="alpha", side=side).copy() for side in SIDES]
    return [*sides, store.status("alpha"), store.similarity("alpha"), store.committed_rows("alpha")]


@pytest.mark.parametrize("when", ["nothing", "receipts", "features"])
@pytest.mark.parametrize("extracted", [False, True])
def test_a_reader_from_before_an_append_serves_the_rows_it_knew(full, when, extracted):
    store, untouched = FeatureStore(full.location), FeatureStore(full.location)
    before = everything(FeatureStore(full.location))
    if when == "receipts":
        store.units("alpha").all()
    if when == "features":
        everything(store)
    grow(full)
    if extracted:
        extract(full)
    # The last range had two rows and is made anew with four: other features, of which two rows are known.
    expected = everything(FeatureStore(full.location)) if extracted else before
    for found, wanted in zip(everything(store), expected, strict=True):
        np.testing.assert_array_equal(found, wanted[:10])
    assert store.info.rows == 10
    assert store.pairs.read(0, 10, ["key"]).num_rows == untouched.pairs.read(0, 10, ["key"]).num_rows == 10
    again = store.reopen()
    assert again.info.rows == 15
    assert again.committed_rows("alpha").tolist() == [True] * (15 if extracted else 10) + [False] * (
        5 * (not extracted)
    )


def test_rows_behind_a_range_that_an_append_left_short_are_read(full):
    grow(full)
    full.register()
    full.commit(3)
    store = FeatureStore(full.location)
    for side in SIDES:
        features = ChunkReader(store).read(np.arange(15), teacher="alpha", side=side)
        assert features.any(axis=1).tolist() == [True] * 10 + [False] * 2 + [True] * 3


def test_ranges_beyond_the_rows_that_a_reader_knew_are_none_of_its_own(full):
    store = FeatureStore(full.location)
    grow(full)
    extract(full)
    assert sorted(store.receipts("alpha")) == [0, 1, 2]
    assert store.receipt("alpha", 3) is None
    assert sorted(store.as_of({"alpha": [0, 2, 3]}).units("alpha").all()) == [0, 2]
    with pytest.raises(StoreError, match="row 10 of a store that has 10"):
        store.read(np.array([10]), teacher="alpha", side="image")


def test_another_corpus_of_as_many_rows_makes_all_features_missing(units, corpus, write_tar, caplog, tmp_path):
    units.register()
    for range_id in range(3):
        units.commit(range_id)
    before = FeatureStore(units.path)
    assert before.is_complete("alpha")
    (units.path / STORE_KEY).unlink()
    members = [(f"q{number}{kind}", content) for number in range(10) for kind, content in pair_of(number)]
    write_tar("other/000.tar", members)
    other = corpus.model_copy(update={"files": [str(tmp_path / "other/*.tar")]})
    index_corpus(units.path, other, range_rows=4, chunk_rows=2)
    store = FeatureStore(units.path)
    assert store.info.rows == 10
    assert not store.status("alpha").any()
    assert not store.read(slice(None), teacher="alpha", side="image").any()
    assert store.receipts("alpha") == {}
    [message] = [record.getMessage() for record in caplog.records if "other pairs" in record.getMessage()]
    assert "3 ranges of alpha" in message
    assert "python -m extract run" in message


def pair_of(number):
    return ((".png", picture(number)), (".txt", f"another {number}".encode()))


def test_a_store_whose_pair_table_is_gone_says_so(units):
    units.register()
    units.commit(0)
    (units.path / "pairs/part-00000.parquet").unlink()
    with pytest.raises(StoreError, match="part-00000"):
        FeatureStore(units.path).status("alpha")
