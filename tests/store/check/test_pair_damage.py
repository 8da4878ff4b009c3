"""A flipped bit in the pair table is found where it is read, and costs no feature."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from store.check.problems import Kind
from store.check.repair import repair
from store.check.verify import verify
from store.errors import StoreError
from store.format.key_index import KEY_INDEX, KeyIndex
from store.format.pairs import PairTable, part_key
from store.read.categories import read_categories
from tests.store import damage

FLIPS = 40


@pytest.fixture
def whole(units):
    """A store with one teacher, and its pair table."""
    units.register()
    for range_id in range(units.info.ranges):
        units.commit(range_id)
    return units


def with_flip(location, key, data, place):
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1 << place % 8
    location.write(key, bytes(changed))


def seen(function):
    """Return a result, or None where a StoreError says that it cannot be read; any other error is one of the test."""
    try:
        return function()
    except StoreError:
        return None


def test_a_flipped_bit_of_the_pair_table_is_never_read_as_another_pair_and_costs_no_unit(whole):
    key, location, info = part_key(0), whole.location, whole.info
    data, rows = location.read(key), whole.pairs.read(0, info.rows)
    for place in np.linspace(4, len(data) - 1, FLIPS).astype(int).tolist():
        with_flip(location, key, data, place)
        found = seen(lambda: PairTable(location, info).read(0, info.rows))
        assert found is None or found.equals(rows), place
        seen(lambda: [read_categories(location, name, info) for name in ("modality", "source")])
        report = verify(location, deep=True)
        assert found is not None or [problem.kind for problem in report.general] != [], place
        assert {problem.kind for problem in report.general} <= {Kind.PAIR_TABLE}, place
        done = repair(location, deep=True, dry_run=True)
        assert (done.receipts, done.objects) == ([], []), place


def test_rows_that_are_not_those_that_the_table_states_accuse_the_table_and_not_the_units(whole, monkeypatch):
    monkeypatch.setattr(PairTable, "stated_digest", lambda *_: "ab" * 32)
    report = verify(whole.location)
    assert {problem.kind for problem in report.general} == {Kind.PAIR_TABLE}
    assert not [unit for unit in report.units if unit.state == "damaged"]


def test_a_flipped_bit_of_the_key_index_is_said_and_does_not_hide_a_key(whole):
    location, info = whole.location, whole.info
    data, keys = location.read(KEY_INDEX), whole.pairs.read(0, info.rows, ["key"])["key"].to_pylist()
    in_pages = pq.ParquetFile(damage.as_file(data)).metadata.row_group(0).total_byte_size
    for place in np.linspace(4, in_pages, FLIPS).astype(int).tolist():
        with_flip(location, KEY_INDEX, data, place)
        rows = seen(lambda: [KeyIndex(location, info).rows_of(key) for key in keys])
        assert rows in (None, [[row] for row in range(info.rows)]), place
        table = seen(lambda: list(KeyIndex(location, info).tables()))
        assert table is None or sum(map(len, table)) == info.rows
