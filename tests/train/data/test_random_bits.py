"""Draws of teachers and coins, against SplitMix64 in Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.batch_order import epoch_order
from train.data.random_bits import _GOLDEN, Purpose, _mix, below, between, bits, coins, draw_teacher

seeds = st.integers(0, 2**64 - 1)
no_deadline = settings(deadline=None)
PINNED_DRAWS = [1, 3, 8, 6, 3, 3, 2, 1, 4, 4, 2, 6]
GOLDEN, WORD = 0x9E3779B97F4A7C15, 2**64 - 1


def draw(available, rows, *, seed=0, epoch=0):
    return draw_teacher(available, rows, seed=seed, epoch=epoch)


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def splitmix64(word):
    """The output function of SplitMix64, as published."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    return word ^ word >> 31


availabilities = st.integers(0, 6).flatmap(
    lambda teachers: st.lists(st.lists(st.booleans(), min_size=teachers, max_size=teachers), min_size=1, max_size=30)
)


@no_deadline
@given(available=availabilities, seed=seeds, epoch=st.integers(0, 2**56 - 1))
def test_only_available_teachers_are_drawn(available, seed, epoch):
    available = np.array(available, dtype=bool)
    rows = np.arange(len(available))
    drawn = draw(available, rows, seed=seed, epoch=epoch)
    assert drawn.dtype == np.int64
    assert np.array_equal(drawn >= 0, available.any(axis=1))
    assert available[rows[drawn >= 0], drawn[drawn >= 0]].all()


@no_deadline
@given(available=availabilities, seed=seeds, shuffle_seed=st.integers(0, 2**32))
def test_the_draw_does_not_depend_on_the_batch_around_a_row(available, seed, shuffle_seed):
    available = np.array(available, dtype=bool)
    rows = np.arange(len(available)) * 7
    drawn = draw(available, rows, seed=seed)
    generator = np.random.default_rng(shuffle_seed)
    some = generator.permutation(len(rows))[: generator.integers(0, len(rows) + 1)]
    assert np.array_equal(draw(available[some], rows[some], seed=seed), drawn[some])


def test_available_teachers_are_drawn_equally_often():
    rows = np.arange(90_000)
    available = np.zeros((len(rows), 12), dtype=bool)
    available[:, [0, 1, 3, 4, 5, 7, 8, 10, 11]] = True
    counts = np.bincount(draw(available, rows, seed=11), minlength=12)
    assert not counts[[2, 6, 9]].any()
    # 8 degrees of freedom: the 0.9999 quantile is 31.8.
    assert chi_square(counts[counts > 0], 10_000) < 31.8


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_draws_of_another_epoch_or_seed_are_independent(seed, epoch):
    rows = np.arange(32_000)
    available = np.ones((len(rows), 4), dtype=bool)
    joint = np.bincount(draw(available, rows) * 4 + draw(available, rows, seed=seed, epoch=epoch), minlength=16)
    # 15 degrees of freedom: the 0.9999 quantile is 44.3.
    assert chi_square(joint, 2_000) < 44.3


def test_draws_of_neighbouring_rows_are_independent():
    rows = np.arange(32_001)
    drawn = draw(np.ones((len(rows), 4), dtype=bool), rows)
    assert chi_square(np.bincount(drawn[1:] * 4 + drawn[:-1], minlength=16), 2_000) < 44.3


def test_every_teacher_of_a_row_is_met_over_the_epochs():
    available = np.array([[True, False, True, True, False]])
    met = {int(draw(available, np.array([123]), epoch=epoch)[0]) for epoch in range(60)}
    assert met == {0, 2, 3}


def test_the_hash_has_the_published_first_value_of_splitmix64_and_draws_stay_the_same():
    assert int(_mix(np.array([_GOLDEN], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF
    assert draw(np.ones((12, 9), dtype=bool), np.arange(12), seed=7, epoch=2).tolist() == PINNED_DRAWS


def test_availability_of_another_shape_or_type_is_refused():
    with pytest.raises(ValueError, match=r"expected bool availability of shape \(3, teachers\), got bool \(2, 4\)"):
        draw(np.ones((2, 4), dtype=bool), np.arange(3))
    with pytest.raises(ValueError, match=r"got uint8 \(3, 4\)"):
        draw(np.ones((3, 4), dtype=np.uint8), np.arange(3))


@no_deadline
@given(seed=seeds, epoch=st.integers(0, 2**56 - 1), row=st.integers(0, 2**40))
def test_a_draw_is_the_published_hash_of_seed_epoch_and_row(seed, epoch, row):
    key = splitmix64(splitmix64(seed + GOLDEN & WORD) ^ splitmix64(epoch))
    word = splitmix64(key ^ splitmix64(row + GOLDEN & WORD))
    assert draw(np.ones((1, 9), dtype=bool), np.array([row]), seed=seed, epoch=epoch).tolist() == [
        (word >> 32) * 9 >> 32
    ]


@no_deadline
@given(seed=seeds, step=st.integers(0, 2**40), row=st.integers(0, 2**40))
def test_coins_are_the_published_hash_of_seed_step_row_and_number(seed, step, row):
    key = splitmix64(splitmix64(seed + GOLDEN & WORD) ^ splitmix64(step ^ 0x94D049BB133111EB))
    word = splitmix64(key ^ splitmix64(row + GOLDEN & WORD))
    expected = [splitmix64(word + number * GOLDEN & WORD) >> 63 == 1 for number in range(1, 6)]
    assert coins(np.array([row]), 5, seed=seed, step=step).tolist() == [expected]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused_and_the_largest_one_is_not(seed):
    def order(seed):
        return epoch_order(np.arange(4), seed=seed, epoch=0, block_rows=2, window_blocks=1)

    for drawn in (lambda seed: draw(np.ones((4, 2), dtype=bool), np.arange(4), seed=seed), order):
        assert len(drawn(2**64 - 1)) == 4
        with pytest.raises(ValueError, match=rf"seed must be from 0 to 2\*\*64 - 1, got {seed}"):
            drawn(seed)


def test_the_words_of_a_row_are_its_own_and_fill_ranges_evenly():
    words = [bits(22, seed=1, epoch=2, purpose=Purpose.CROPS, row=row).tolist() for row in range(200)]
    assert len({word for of_row in words for word in of_row}) == 200 * 22
    drawn = np.array([between(2, 5, word) for of_row in words for word in of_row])
    assert 2 <= drawn.min() < 2.01
    assert 4.99 < drawn.max() < 5
    assert abs(drawn.mean() - 3.5) < 0.05
    counts = np.bincount([below(7, word) for of_row in words for word in of_row], minlength=8)
    assert counts[7] == 0
    assert abs(counts[:7] / len(drawn) - 1 / 7).max() < 0.02


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**56)])
def test_a_seed_or_epoch_that_a_key_cannot_hold_is_refused(seed, epoch):
    with pytest.raises(ValueError, match=r"must be from 0 to 2\*\*(64|56) - 1, got"):
        draw(np.ones((2, 2), bool), np.arange(2), seed=seed, epoch=epoch)
