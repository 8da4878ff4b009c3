"""Statistics, agreement, sampling against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest

from store.inspect.agreement import linear_cka
from store.inspect.feature_statistics import draw_rows, duplicates, effective_rank, mean_cosine, side_statistics

ROWS = 60


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 5)) + 1
    return x, x[:, :3] @ rng.normal(size=(3, 8)) + 0.5 * rng.normal(size=(ROWS, 8)) - 2


def hsic(one, other):
    """Return the biased HSIC of two Gram matrices, as Gretton et al. define it."""
    rows = len(one)
    centring = np.eye(rows) - np.full((rows, rows), 1 / rows)
    return np.trace(one @ centring @ other @ centring) / (rows - 1) ** 2


def test_cka_is_the_normalised_hsic_of_the_gram_matrices(drawn):
    x, y = drawn
    gram_x, gram_y = x @ x.T, y @ y.T
    expected = hsic(gram_x, gram_y) / np.sqrt(hsic(gram_x, gram_x) * hsic(gram_y, gram_y))
    assert 0.1 < expected < 0.9
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)
    assert linear_cka(y, x) == pytest.approx(expected, abs=1e-12)


def test_cka_is_one_under_rotation_scaling_and_shift_and_small_of_unrelated_features(drawn):
    x, _ = drawn
    rng = np.random.default_rng(4)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    assert linear_cka(x, 3 * x @ rotation + 7) == pytest.approx(1, abs=1e-12)
    assert linear_cka(rng.normal(size=(4000, 5)), rng.normal(size=(4000, 8))) < 0.01


def test_cka_with_features_that_do_not_vary_is_not_a_number_that_could_mislead(drawn):
    x, _ = drawn
    constant = np.tile(np.float16([0.6, 0.8]), (ROWS, 1))
    assert linear_cka(x, constant) is None
    assert linear_cka(constant, x) is None


def test_the_effective_rank_is_the_number_of_dimensions_that_features_spread_over_evenly():
    axes = np.concatenate([np.eye(6), -np.eye(6)])
    assert effective_rank(axes) == pytest.approx(6)
    assert effective_rank(axes[[0, 1, 6, 7]]) == pytest.approx(2)
    assert effective_rank(np.tile([0.6, 0.8], (9, 1))) == 0


def test_the_effective_rank_is_that_of_the_singular_values(drawn):
    x, _ = drawn
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    share = singular / singular.sum()
    assert effective_rank(x) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)


def test_the_mean_cosine_is_that_of_all_pairs(drawn):
    x, _ = drawn
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = [float(unit[i] @ unit[j]) for i in range(ROWS) for j in range(i)]
    assert mean_cosine(x) == pytest.approx(np.mean(cosines), abs=1e-12)
    assert mean_cosine(np.tile([[3.0, 4.0]], (7, 1))) == pytest.approx(1)
    assert mean_cosine(x[:1]) is None


def test_duplicates_are_counted_and_told_from_inputs_that_are_the_same():
    features = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float16)
    assert duplicates(features, np.array([0, 1, 0, 0, 1])) == (3, 0)
    assert duplicates(features, np.array([0, 1, 0, 2, 3])) == (3, 2)
    assert duplicates(features, np.array([0, 1, -1, 2, 3])) == (3, None)
    assert duplicates(features[:2], np.array([0, 0])) == (0, 0)


def test_a_collapsed_side_shows_in_every_number():
    found = side_statistics(np.tile(np.float32([0.6, 0, 0.8]), (8, 1)), np.arange(8, dtype=np.int32))
    assert found.norm_mean == pytest.approx(1, abs=1e-6)
    assert (found.duplicates, found.shared_by_inputs, found.constant_dimensions) == (7, 7, 3)
    assert (found.effective_rank, found.mean_cosine) == (0, pytest.approx(1))


def test_one_dead_dimension_is_found_among_live_ones(drawn):
    x, _ = drawn
    x = x.copy()
    x[:, 2] = 0.25
    found = side_statistics(x, np.arange(ROWS, dtype=np.int32))
    assert (found.constant_dimensions, found.duplicates) == (1, 0)
    assert found.norm_min < found.norm_mean < found.norm_max


def test_few_rows_are_all_drawn():
    eligible = np.arange(20) % 3 == 0
    assert draw_rows(eligible, chunk_rows=4, rows=7, seed=0).tolist() == [0, 3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize("wanted", [8, 10, 64])
def test_many_rows_are_drawn_in_whole_chunks_as_the_seed_says(wanted):
    eligible = np.random.default_rng(0).random(1000) < 0.9
    drawn = draw_rows(eligible, chunk_rows=8, rows=wanted, seed=1)
    assert len(drawn) == wanted
    assert eligible[drawn].all()
    assert (np.diff(drawn) > 0).all()
    complete = [
        chunk
        for chunk in np.unique(drawn // 8)
        if eligible[8 * chunk : 8 * chunk + 8].sum() == (drawn // 8 == chunk).sum()
    ]
    assert len(np.unique(drawn // 8)) - len(complete) <= 1
    assert np.array_equal(drawn, draw_rows(eligible, chunk_rows=8, rows=wanted, seed=1))
    assert not np.array_equal(drawn, draw_rows(eligible, chunk_rows=8, rows=wanted, seed=2))


def test_every_chunk_has_its_chance():
    eligible = np.ones(40, dtype=bool)
    drawn = [draw_rows(eligible, chunk_rows=4, rows=4, seed=seed) for seed in range(400)]
    counts = np.bincount([rows[0] // 4 for rows in drawn], minlength=10)
    # 400 draws of one in ten: three standard deviations are 18.
    assert counts.min() > 22
    assert counts.max() < 58
