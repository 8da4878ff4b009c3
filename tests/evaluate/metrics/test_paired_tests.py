from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evaluate.metrics.paired_tests import difference, holm, one_sided_p, over_seeds, resamples_to_decide


def test_a_paired_difference_is_much_surer_than_two_intervals():
    generator = np.random.default_rng(5)
    base = generator.normal(0.8, 0.05, 2000)
    found = difference((0.81, 0.80), (base + 0.01 + generator.normal(0, 0.001, 2000), base))
    assert found.value == pytest.approx(0.01)
    assert found.low == pytest.approx(0.01 - 1.96 * 0.001, abs=3e-4)
    assert found.high == pytest.approx(0.01 + 1.96 * 0.001, abs=3e-4)
    assert found.p == pytest.approx(2 / 2001)


def test_p_agrees_with_the_normal_one_where_the_differences_are_normal():
    generator = np.random.default_rng(6)
    shifted = generator.normal(2.0, 1.0, 100_000)
    found = difference((2.0, 0.0), (shifted, np.zeros(100_000)))
    assert found.p == pytest.approx(2 * stats.norm.sf(2.0), rel=0.05)


def test_a_model_does_not_differ_from_itself():
    samples = np.random.default_rng(1).random(100)
    found = difference((0.5, 0.5), (samples, samples))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_difference_counts_the_resamples_that_lack_either_number():
    one, other = np.array([np.nan, 1.0, 2.0, 3.0]), np.array([1.0, np.nan, 1.0, 1.0])
    found = difference((2.0, 1.0), (one, other))
    assert (found.resamples, found.failed) == (4, 2)
    assert difference((2.0, 1.0), (one[:2], other[:2])).p is None


def test_holm_is_what_its_definition_says_and_passes_by_what_is_no_test():
    given = [0.01, None, 0.04, 0.03, 0.005]
    known = np.sort([0.01, 0.04, 0.03, 0.005])
    steps = np.minimum(1, np.maximum.accumulate(known * [4, 3, 2, 1]))
    by_p = dict(zip(known.tolist(), steps.tolist(), strict=True))
    assert holm(given) == [None if p is None else pytest.approx(by_p[p]) for p in given]
    assert holm([None]) == [None]


@pytest.mark.parametrize("tests", [1, 12, 13, 58, 500])
def test_enough_resamples_are_drawn_for_one_of_many_tests_to_count(tests):
    resamples = resamples_to_decide(tests)
    smallest = [2 / (resamples + 1)] + [1.0] * (tests - 1)
    assert multipletests(smallest, method="holm")[1][0] <= 0.025
    assert resamples >= 1000


def test_more_tests_never_need_fewer_resamples():
    needed = [resamples_to_decide(tests) for tests in range(1, 200)]
    assert all(later >= earlier for earlier, later in pairwise(needed))


def test_without_spread_of_items_seeds_follow_students_t():
    values = np.array([0.70, 0.74, 0.75])
    samples = over_seeds(np.repeat(values[:, None], 40_000, axis=1))
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(3))
    assert np.percentile(samples, [2.5, 97.5]) == pytest.approx(expected, rel=0.02)
    np.testing.assert_array_equal(over_seeds(values[None]), values)


def test_a_one_sided_p_counts_the_resamples_that_do_not_exceed_the_limit():
    differences = np.array([-0.2, 0.0, 0.1, 0.3, np.nan])
    assert one_sided_p(differences, above=0.0) == 3 / 5
    assert one_sided_p(differences, above=-0.1) == 2 / 5
    assert one_sided_p(np.full(3, np.nan), above=0.0) == 1
