"""Small training sets drawn from large ones."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.tasks.fitting.subsets import fraction_rows, rows_digest, shot_rows
from store.errors import EvaluationError

TARGET = np.random.default_rng(0).choice(4, size=2000, p=[0.6, 0.3, 0.099, 0.001])
PATIENTS = [f"patient {row // 10}" for row in range(2000)]


@pytest.mark.parametrize("groups", [None, PATIENTS])
@pytest.mark.parametrize("seed", range(3))
def test_fractions_are_nested_and_hold_every_class(groups, seed):
    small, large = (set(fraction_rows(TARGET, part, seed=seed, groups=groups)) for part in (0.01, 0.1))
    assert small < large
    for rows, part in ((small, 0.01), (large, 0.1)):
        for label in np.unique(TARGET):
            expected = max(1, round(part * np.count_nonzero(label == TARGET)))
            assert (TARGET[list(rows)] == label).sum() == expected


def test_the_whole_is_the_whole():
    np.testing.assert_array_equal(fraction_rows(TARGET, 1, seed=3), np.arange(2000))


def test_a_fraction_has_few_patients():
    without = {PATIENTS[row] for row in fraction_rows(TARGET, 0.05, seed=1)}
    with_groups = {PATIENTS[row] for row in fraction_rows(TARGET, 0.05, seed=1, groups=PATIENTS)}
    assert len(with_groups) < len(without) / 2


@pytest.mark.parametrize("groups", [None, PATIENTS])
def test_shots_are_nested_and_say_which_class_has_fewer(groups):
    rows, short = {}, {}
    for shots in (1, 2, 4, 8, 16):
        rows[shots], short[shots] = shot_rows(TARGET, shots, seed=5, groups=groups)
    assert set(rows[1]) < set(rows[2]) < set(rows[4]) < set(rows[16])
    rare = int((TARGET == 3).sum())
    assert np.bincount(TARGET[rows[16]]).tolist() == [16, 16, 16, rare]
    assert short[16] == {3: rare}
    assert short[1] == {}


def test_shots_are_of_different_patients():
    rows, _ = shot_rows(TARGET, 16, seed=2, groups=PATIENTS)
    for label in range(3):
        assert len({PATIENTS[row] for row in rows[TARGET[rows] == label]}) == 16
    one_patient, _ = shot_rows(TARGET, 4, seed=2, groups=["same"] * 2000)
    assert np.bincount(TARGET[one_patient])[:3].tolist() == [4, 4, 4]


def test_a_draw_depends_on_its_seed_alone():
    first, second = (shot_rows(TARGET, 8, seed=seed)[0] for seed in (1, 2))
    assert set(first) != set(second)
    np.testing.assert_array_equal(first, shot_rows(TARGET, 8, seed=1)[0])
    # Another class more or less changes nothing for the others.
    without = np.where(TARGET == 0, 9, TARGET)
    kept = shot_rows(without, 8, seed=1)[0]
    assert set(kept[np.isin(TARGET[kept], (1, 2, 3))]) == set(first[np.isin(TARGET[first], (1, 2, 3))])


def test_what_was_drawn_has_a_digest_whatever_its_order():
    assert rows_digest(["b", "a"]) == rows_digest(["a", "b"]) != rows_digest(["a"])


@pytest.mark.parametrize("fraction", [0, 1.1, -1])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(EvaluationError, match="fraction"):
        fraction_rows(TARGET, fraction, seed=0)


def test_no_shots_are_refused():
    with pytest.raises(EvaluationError, match="at least 1, not 0"):
        shot_rows(TARGET, 0, seed=0)
