"""The numbers of a page against their definitions: histograms, the map, nearest rows, queries, reasons, the sample."""

from __future__ import annotations

import numpy as np
import pytest

from store.format.records import Status
from store.read.reader import FeatureStore
from store.report.numbers import BIN, choose_queries, flat_map, histogram, nearest_of, reasons_of, spread_out
from store.report.sample import SPREAD, draw_sample
from tests.benchmarks.store.synthetic_store import make_store


def test_a_histogram_counts_every_cosine_once():
    drawn_K = np.clip(np.random.default_rng(0).normal(0.3, 0.2, 5000), -1, 1).astype(np.float32)
    found = histogram(np.concatenate([drawn_K, np.float32([1.0000001, -1.0000001, 0.311])]))
    assert found.rows == sum(found.counts) == 5003
    assert found.counts[0] > 0
    assert found.counts[-1] > 0
    bar = int((0.311 - found.first) / BIN)
    low, high = found.first + BIN * bar, found.first + BIN * (bar + 1)
    assert low <= 0.311 < high
    assert found.counts[bar] == ((drawn_K >= low) & (drawn_K < high)).sum() + 1
    assert found.quantiles["50"] == pytest.approx(np.median(drawn_K), abs=1e-3)
    assert found.mean == pytest.approx(drawn_K.mean(), abs=1e-3)
    assert histogram(np.zeros(0, np.float32)) is None


def test_a_map_keeps_what_is_alike_together_and_is_the_same_with_the_same_seed():
    rng = np.random.default_rng(3)
    centres_3D = rng.normal(size=(3, 24))
    group_K = np.repeat(np.arange(3), 40)
    features_KD = centres_3D[group_K] + 0.1 * rng.normal(size=(120, 24))
    places_K2 = flat_map(features_KD.astype(np.float16), seed=1)
    assert (places_K2.min(axis=0).tolist(), places_K2.max(axis=0).tolist()) == ([0, 0], [1, 1])
    apart_KK = np.linalg.norm(places_K2[:, None] - places_K2, axis=2) + 9 * np.eye(120)
    assert (group_K[apart_KK.argmin(axis=1)] == group_K).all()
    assert np.array_equal(places_K2, flat_map(features_KD.astype(np.float16), seed=1))
    chosen = spread_out(places_K2, cells=4)
    cells = [tuple(np.minimum(places_K2[row] * 4, 3).astype(int)) for row in chosen]
    assert len({*cells}) == len(cells) == len({tuple(cell) for cell in np.minimum(places_K2 * 4, 3).astype(int)})


@pytest.mark.parametrize("features_KD", [np.ones((40, 6)), np.eye(6)[:4], np.zeros((0, 6))])
def test_there_is_no_map_of_few_rows_or_of_features_that_are_all_the_same(features_KD):
    assert flat_map(features_KD.astype(np.float32), seed=0) is None


def test_a_map_of_one_dimension_is_a_line():
    places_K2 = flat_map(np.linspace(0, 1, 9)[:, None], seed=0)
    assert places_K2.shape == (9, 2)
    assert np.isfinite(places_K2).all()


def test_nearest_rows_are_those_of_a_sort_of_all_cosines():
    rng = np.random.default_rng(5)
    features_KD, ok_K = rng.normal(size=(50, 8)), rng.random(50) < 0.7
    ok_K[7] = True
    wanted = sorted(
        (-float(one @ features_KD[7] / np.linalg.norm(one) / np.linalg.norm(features_KD[7])), place)
        for place, one in enumerate(features_KD)
        if ok_K[place] and place != 7
    )
    found = nearest_of(features_KD, ok_K, 7, count=6)
    assert [place for place, _ in found] == [place for _, place in wanted[:6]]
    assert [cosine for _, cosine in found] == pytest.approx([-cosine for cosine, _ in wanted[:6]], abs=1e-6)


def test_queries_are_rows_that_most_teachers_know_of_different_modalities():
    ok_KT = np.ones((30, 3), bool)
    ok_KT[:10, 1] = False
    codes_K = (np.arange(30) % 3).astype(np.int32)
    chosen = choose_queries(ok_KT, codes_K, count=4, seed=2)
    assert len({*chosen}) == 4
    assert min(chosen) >= 10
    assert {int(codes_K[row]) for row in chosen[:3]} == {0, 1, 2}
    assert choose_queries(ok_KT, codes_K, count=4, seed=2) == chosen
    assert len(choose_queries(ok_KT[:2], codes_K[:2], count=4, seed=2)) == 2
    assert choose_queries(np.zeros((0, 3), bool), codes_K[:0], count=4, seed=2) == []


def test_reasons_are_counted_without_the_paths_in_them_and_the_most_frequent_comes_first(units):
    units.register()
    features = units.features(0)
    features.status[:3] = Status.BAD_IMAGE, Status.BAD_TEXT, Status.BAD_IMAGE
    features.reasons.update({0: "/a/b.png: empty", 1: "no caption", 2: "/c/d.png: empty"})
    units.commit(0, features=features)
    found = reasons_of({"alpha": FeatureStore(units.path).receipts("alpha").values()})
    assert [(one.status, one.reason, one.rows, one.row, one.key) for one in found] == [
        ("bad_image", "empty", 2, 0, "p00"),
        ("bad_text", "no caption", 1, 1, "p01"),
    ]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of 3,000 rows in chunks of 64, by two teachers of which one lacks half the rows."""
    path = tmp_path_factory.mktemp("large") / "store"
    widths, present = {"one": 16, "two": 12}, {"one": 1.0, "two": 0.5}
    for _ in make_store(path, rows=3000, widths=widths, present=present, range_rows=512, chunk_rows=64):
        pass
    return FeatureStore(path)


def statuses(store):
    return {name: store.status(name) for name in store.teachers}


def test_a_sample_has_the_stored_features_of_rows_from_many_chunks(large):
    found = draw_sample(large, statuses(large), rows=200, seed=4)
    assert (len(found.rows_K), found.of_rows) == (200, 3000)
    assert np.all(np.diff(found.rows_K) > 0)
    assert len(np.unique(found.rows_K // 64)) >= SPREAD * 200 // 64
    for name in large.teachers:
        assert np.array_equal(found.ok(name), large.status(name)[found.rows_K] == Status.OK)
        for side in ("image", "text"):
            stored_ND = large.read(slice(None), teacher=name, side=side)
            assert np.array_equal(found.features[side][name], stored_ND[found.rows_K])
    assert np.array_equal(draw_sample(large, statuses(large), rows=200, seed=4).rows_K, found.rows_K)
    assert not np.array_equal(draw_sample(large, statuses(large), rows=200, seed=5).rows_K, found.rows_K)
    assert len(draw_sample(large, statuses(large), rows=9000, seed=5).rows_K) == 3000
