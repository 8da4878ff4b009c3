"""Statistics of teachers are fitted once before a run, kept, and bound to specs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from store.errors import ConfigError, SpecMismatchError, StoreError
from train.recipes.teacher_statistics import (
    STATISTICS_FILE,
    TeacherStatistics,
    fit_statistics,
    kept_statistics,
    side_statistics,
)


@pytest.fixture
def store(make_store):
    return make_store()


def fit(store, **changes):
    settings = {"rows": 1000, "seed": 3, "phi_s": True, **changes}
    return fit_statistics(store, store.teachers, store.available("all"), **settings)


def hashes_of(store):
    return {name: store.spec(name).hash for name in store.teachers}


def test_statistics_are_those_of_the_available_features(store):
    found = fit(store)
    available_NT = store.available("all")
    assert set(found.sides) == {(name, side) for name in store.teachers for side in ("image", "text")}
    for number, name in enumerate(store.teachers):
        rows = np.flatnonzero(available_NT[:, number])
        features = store.read(rows, teacher=name, side="text").astype(np.float64)
        np.testing.assert_allclose(found.sides[name, "text"].phi_s.mean_D, features.mean(axis=0), atol=1e-12)
        matrix = found.sides[name, "text"].phi_s.matrix_DD
        np.testing.assert_allclose((features @ matrix.T).std(axis=0), 1, rtol=1e-9)


def test_dispersion_is_the_mean_squared_angle_to_the_mean():
    angles = np.array([0.1, -0.1, 0.4, -0.4])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert side_statistics(features, phi_s=False).dispersion == pytest.approx(np.square(angles).mean())


def test_no_more_rows_are_looked_at_than_asked_for(store):
    few, all_rows = fit(store, rows=16), fit(store)
    assert not np.allclose(few.sides["beta", "image"].phi_s.mean_D, all_rows.sides["beta", "image"].phi_s.mean_D)
    again = fit(store, rows=16)
    np.testing.assert_array_equal(again.sides["beta", "image"].phi_s.mean_D, few.sides["beta", "image"].phi_s.mean_D)


def test_what_is_kept_is_not_fitted_again(store, tmp_path):
    calls = []

    def counted():
        calls.append(1)
        return fit(store)

    first, second = (kept_statistics(tmp_path, counted, spec_hashes=hashes_of(store)) for _ in range(2))
    assert len(calls) == 1
    for key, found in first.sides.items():
        assert second.sides[key].dispersion == found.dispersion
        np.testing.assert_array_equal(second.sides[key].phi_s.matrix_DD, found.phi_s.matrix_DD)
        np.testing.assert_array_equal(second.sides[key].phi_s.mean_D, found.phi_s.mean_D)


def test_statistics_without_phi_s_survive_their_file(store, tmp_path):
    fit(store, phi_s=False).save(tmp_path / "file")
    found = TeacherStatistics.load(tmp_path / "file")
    assert {side.phi_s for side in found.sides.values()} == {None}
    assert all(0 < side.dispersion < math.pi**2 for side in found.sides.values())


def test_statistics_of_other_features_are_refused(store, tmp_path):
    kept_statistics(tmp_path, lambda: fit(store), spec_hashes=hashes_of(store))
    with pytest.raises(SpecMismatchError, match="features of other specs: alpha"):
        kept_statistics(tmp_path, lambda: fit(store), spec_hashes=hashes_of(store) | {"alpha": "1" * 64})


@pytest.mark.parametrize("content", [b"", b"noise" * 100])
def test_a_damaged_file_is_refused(store, tmp_path, content):
    (tmp_path / STATISTICS_FILE).write_bytes(content)
    with pytest.raises(StoreError, match=r"teacher_statistics.safetensors: no statistics of teachers, or damaged"):
        kept_statistics(tmp_path, lambda: fit(store), spec_hashes=hashes_of(store))


def test_a_teacher_without_features_is_named(store):
    available_NT = store.available("all")
    available_NT[:, 0] = False
    with pytest.raises(ConfigError, match="teacher alpha, image features: there are none") as caught:
        fit_statistics(store, store.teachers, available_NT, rows=10, seed=1, phi_s=True)
    assert "improved.phi_s: false" in caught.value.hint
