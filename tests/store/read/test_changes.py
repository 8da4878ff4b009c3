"""A reader of units that are made anew, replaced or taken out meanwhile sees the old one whole or the new one."""

from __future__ import annotations

import os

import numpy as np
import pytest

from store.errors import CorruptChunkError, IncompleteStoreError, SpecMismatchError
from store.format import promote
from store.format.arrays import shard_key
from store.format.commit import register_teacher
from store.format.records import RETRY_FOLDER, receipt_key, spec_key
from store.read import stored_side
from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.conftest import Units

RANGE, ROWS = 1, np.arange(4, 8)
OTHER = {"output": "another"}


def attempt(units, seed, rows=ROWS):
    """Image, text and similarity of some rows of one attempt, as they are stored."""
    numbers = sorted({*(rows // 4).tolist()})
    sides = [
        np.concatenate([getattr(units.features(n, seed=seed), side) for n in numbers]) for side in ("image", "text")
    ]
    return [np.float16(values) for values in sides]


def seen(reader, rows=ROWS):
    found = reader.read_many([Ask(teachers=("alpha",), rows_B=rows)])
    return [found["alpha", "image"].copy(), found["alpha", "text"].copy()]


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def make_again(units, seed=1):
    units.location.write(receipt_key("alpha", RANGE, folder=RETRY_FOLDER), b"{}")
    units.commit(RANGE, features=units.features(RANGE, seed=seed))


@pytest.fixture
def at_each_step(monkeypatch):
    """Call a function at every step at which a writer may be killed, and count the calls."""

    def watch(look):
        steps = []

        def reached(step):
            steps.append(step)
            look()

        monkeypatch.setattr(promote, "reached", reached)
        return steps

    return watch


def opened(units, verify, *, begun):
    """A store that knows all receipts and has read nothing, or one side of one row."""
    store = FeatureStore(units.location, verify=verify)
    store.units("alpha").all()
    if begun:
        store.read(ROWS[:1], teacher="alpha", side="image")
    return store


@pytest.mark.parametrize("verify", ["first", "never"])
def test_a_retry_shows_every_reader_the_old_unit_or_the_new_one(full, at_each_step, verify):
    age(full)
    old, new = attempt(full, 0), attempt(full, 1)
    waiting = [opened(full, verify, begun=number % 2 == 0) for number in range(20)]
    one, said = opened(full, verify, begun=True), {"one": [], "waiting": [], "fresh": []}

    def look():
        for name, store in (("one", one), ("waiting", waiting.pop()), ("fresh", FeatureStore(full.location))):
            found = seen(ChunkReader(store))
            assert same(found, old) or same(found, new)
            said[name].append(same(found, new))

    steps = at_each_step(look)
    make_again(full)
    look()
    assert steps.count("promote.moved") == 4
    # The switch is the first step: all that is opened after it is new, and so is what is read first after it.
    assert all(said["fresh"])
    assert said["waiting"][-1]
    assert said["one"] == sorted(said["one"])


def age(units):
    """Date what is there back: a receipt tells the second, and a retry comes later."""
    if units.location.uri.startswith("memory:"):
        for range_id in range(3):
            damage.edit_json(units.location, receipt_key("alpha", range_id), finished="2020-01-01T00:00:00+00:00")
    else:
        for path in units.path.glob("features.zarr/alpha/*/c/**/*"):
            os.utime(path, (1e9, 1e9))
        for range_id in range(3):
            damage.edit_json(units.location, receipt_key("alpha", range_id), finished="2020-01-01T00:00:00+00:00")


def test_what_another_thread_finds_changed_is_not_mixed_with_what_was_read_before(full, monkeypatch):
    """The similarity is read, and the new receipt with it, between the images and the texts of a batch."""
    store, fill, calls = opened(full, "first", begun=False), stored_side.StoredSide.fill, []

    def filling(self, *arguments, **options):
        slow = fill(self, *arguments, **options)
        calls.append(self)
        if len(calls) == 1:
            make_again(full)
            store.similarity("alpha")
        return slow

    monkeypatch.setattr(stored_side.StoredSide, "fill", filling)
    assert same(seen(ChunkReader(store, threads=1)), attempt(full, 1))
    assert len(calls) == 4


def test_a_column_is_read_again_where_its_unit_was_made_anew(full):
    store, features = FeatureStore(full.location), full.features(RANGE, seed=1)
    before = store.similarity("alpha").copy()
    make_again(full)
    now = store.similarity("alpha")
    np.testing.assert_allclose(now[4:8], (features.image * features.text).sum(axis=1), atol=1e-6)
    assert not np.array_equal(now, before)


@pytest.mark.parametrize("verify", ["first", "never"])
def test_replacing_a_teacher_shows_the_old_model_the_new_one_or_an_error(full, at_each_step, verify):
    age(full)
    rows = np.arange(10)
    old, new = attempt(full, 0, rows), attempt(full, 5, rows)
    spec = full.spec(**OTHER)
    waiting = [opened(full, verify, begun=number % 2 == 0) for number in range(60)]
    one, said = opened(full, verify, begun=True), {"old": 0, "new": 0, "refused": 0}

    def look():
        for store in (one, waiting.pop(), FeatureStore(full.location, verify=verify)):
            try:
                found = seen(ChunkReader(store), rows)
            except SpecMismatchError as error:
                said["refused"] += "was replaced since the store was opened" in str(error)
                continue
            assert same(found, old) or same(found, new)
            said["new" if same(found, new) else "old"] += 1

    replace(full, spec, at_each_step, look)
    look()
    assert all(said.values())
    assert same(seen(ChunkReader(FeatureStore(full.location)), rows), new)


def replace(units, spec, at_each_step, look):
    at = register_teacher(units.location, spec, info=units.info, replace=True)
    beside = Units(units.path, units.info, pairs=units.pairs)
    beside.location = units.location.below(at)
    for range_id in range(3):
        beside.commit(range_id, spec=spec, features=units.features(range_id, seed=5))
        look()
    steps = at_each_step(look)
    promote.replace_units(units.location, at, spec_key("alpha"), guard=promote.unguarded)
    assert "replace.switched" in steps


def test_a_unit_that_is_taken_out_ends_reading_with_what_to_do(full):
    waiting, mapped = opened(full, "first", begun=False), FeatureStore(full.location)
    before = mapped.read(ROWS, teacher="alpha", side="image").copy()
    full.location.delete([receipt_key("alpha", RANGE), shard_key("alpha", "image", RANGE)])
    with pytest.raises(
        IncompleteStoreError, match="range 1 of alpha was committed when the store was opened"
    ) as caught:
        waiting.read(ROWS, teacher="alpha", side="image")
    assert "python -m extract run" in caught.value.hint
    assert not FeatureStore(full.location).read(ROWS, teacher="alpha", side="image").any()
    if not full.location.uri.startswith("memory:"):
        np.testing.assert_array_equal(mapped.read(ROWS, teacher="alpha", side="image"), before)


def test_a_unit_with_fewer_features_than_before_is_no_silent_change(full):
    waiting = opened(full, "first", begun=False)
    features = full.features(RANGE, seed=1)
    features.status[2] = 4
    full.location.write(receipt_key("alpha", RANGE, folder=RETRY_FOLDER), b"{}")
    full.commit(RANGE, features=features)
    with pytest.raises(IncompleteStoreError, match="features of 3 rows where it had 4"):
        waiting.read(ROWS, teacher="alpha", side="image")


def test_an_object_that_was_checked_and_then_replaced_is_checked_again(full, monkeypatch):
    monkeypatch.setattr(stored_side, "MAPS", 2)
    store, key = FeatureStore(full.location), shard_key("alpha", "image", RANGE)
    read = lambda row: store.read(np.array([row]), teacher="alpha", side="image")  # noqa: E731
    read(4)
    damage.flip(full.location, key)
    # The place of range 1 is taken by others, so that its file is opened again.
    read(0)
    read(8)
    with pytest.raises(CorruptChunkError, match="is damaged"):
        store.read(ROWS, teacher="alpha", side="image")


def test_features_of_other_pairs_are_missing_and_a_warning_says_so(full, caplog):
    damage.edit_pairs(full.location, at=5, caption="another")
    store = FeatureStore(full.location)
    for _ in range(2):
        assert store.status("alpha").tolist() == [1] * 4 + [0] * 4 + [1] * 2
        assert not store.read(ROWS, teacher="alpha", side="image").any()
    [message] = [record.getMessage() for record in caplog.records if "other pairs" in record.getMessage()]
    assert "1 ranges of alpha, such as 1" in message
    assert "python -m extract run" in message
