"""Reading teachers that encode images alone: what is there, and one clear error for what is not."""

from __future__ import annotations

import numpy as np
import pytest

from store.errors import ConfigError, StoreError
from store.io.location import locate
from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore
from store.read.selection import TeacherSelection
from tests.store import damage

NO_TEXT = "teacher seer encodes images alone: it has neither text features nor similarities"


@pytest.fixture
def store(units):
    """A teacher that encodes both sides, and one that encodes images alone; both have row 5 in their second range."""
    units.fill({})
    units.one_sided()
    return FeatureStore(units.path)


def test_image_features_and_status_are_read(store, units):
    expected = np.concatenate([units.features(range_id).image for range_id in range(3)]).astype(np.float16)
    expected[5] = 0
    assert np.array_equal(store.read(slice(None), teacher="seer", side="image"), expected)
    assert np.array_equal(store.read(np.array([9, 0]), teacher="seer", side="image"), expected[[9, 0]])
    assert store.status("seer").tolist() == [1] * 5 + [2] + [1] * 4
    assert store.is_complete("seer")


def test_the_missing_side_is_refused_with_the_teachers_name(store):
    for ask in (
        lambda: store.read(slice(None), teacher="seer", side="text"),
        lambda: store.similarity("seer"),
        lambda: ChunkReader(store).read(np.array([1]), teacher="seer", side="text"),
    ):
        with pytest.raises(StoreError, match=NO_TEXT):
            ask()
    assert store.read(slice(None), teacher="alpha", side="text").any()


def test_many_rows_of_many_teachers_have_the_sides_that_are_there(store):
    asks = [Ask(teachers=("alpha", "seer"), rows_B=np.array([1, 2]))]
    found = ChunkReader(store).read_many(asks)
    assert set(found) == {("alpha", "image"), ("alpha", "text"), ("seer", "image")}
    assert np.array_equal(found["seer", "image"], store.read(np.array([1, 2]), teacher="seer", side="image"))


def test_on_object_storage_too(store, units):
    place = locate("memory://one-side")
    for key, _ in units.location.list():
        place.write(key, units.location.read(key))
    far = FeatureStore(place)
    assert np.array_equal(*(one.read(slice(None), teacher="seer", side="image") for one in (store, far)))


def test_damaged_bytes_are_found_by_their_checksum(store, units):
    damage.flip(units.location, "features.zarr/seer/image/c/0/0")
    with pytest.raises(StoreError, match="its CRC-32C is"):
        store.read(slice(0, 4), teacher="seer", side="image")
    damage.flip(units.location, "features.zarr/seer/status/c/1")
    with pytest.raises(StoreError, match="its CRC-32C is not"):
        FeatureStore(units.path).status("seer")


def test_a_selection_by_modality_holds_and_one_by_similarity_is_refused(store):
    everything = store.available()
    assert everything[:, store.teachers.index("seer")].tolist() == (store.status("seer") == 1).tolist()
    of_ct = store.available({"seer": TeacherSelection(modalities=["ct"])}, teachers=["seer"])
    assert of_ct[:, 0].tolist() == [row % 3 == 1 for row in range(10)]
    for rule in ({"min_similarity": 0.2}, {"top_quantile": 0.5}):
        (key,) = rule
        with pytest.raises(ConfigError, match=f"select.seer.{key}: the teacher encodes images alone"):
            store.available({"seer": TeacherSelection(**rule)})
        assert store.available({"alpha": TeacherSelection(**rule)}).any()


def test_another_process_sees_what_this_one_knows(store, units):
    other = FeatureStore(units.path)
    other.adopt(store.known())
    assert np.array_equal(*(one.read(slice(None), teacher="seer", side="image") for one in (store, other)))
