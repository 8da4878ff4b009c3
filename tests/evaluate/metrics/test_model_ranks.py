from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluate.metrics.model_ranks import critical_difference, rank_models, ranks
from evaluate.metrics.paired_tests import signed_rank_p

DEMSAR = {  # AUC of Demsar (2006), table 6; voting has more digits than printed: its ranks are 4, 1, 2, 3
    "adult": (0.763, 0.768, 0.771, 0.798),
    "breast cancer": (0.599, 0.591, 0.590, 0.569),
    "breast cancer wisconsin": (0.954, 0.971, 0.968, 0.967),
    "cmc": (0.628, 0.661, 0.654, 0.657),
    "ionosphere": (0.882, 0.888, 0.886, 0.898),
    "iris": (0.936, 0.931, 0.916, 0.931),
    "liver disorders": (0.661, 0.668, 0.609, 0.685),
    "lung cancer": (0.583, 0.583, 0.563, 0.625),
    "lymphography": (0.775, 0.838, 0.866, 0.875),
    "mushroom": (1.000, 1.000, 1.000, 1.000),
    "primary tumor": (0.940, 0.962, 0.965, 0.962),
    "rheum": (0.619, 0.666, 0.614, 0.669),
    "voting": (0.972, 0.981, 0.9752, 0.9751),
    "wine": (0.957, 0.978, 0.946, 0.970),
}
MODELS = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
SCORES_DK = np.array(list(DEMSAR.values()))


def test_mean_ranks_are_those_of_demsars_example():
    ranking = rank_models(MODELS, SCORES_DK)
    assert ranking.models == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert ranking.mean_ranks == pytest.approx([1.964, 2.000, 2.893, 3.143], abs=5e-4)


def test_friedmans_statistic_is_demsars_once_its_correction_for_ties_is_undone():
    ranking = rank_models(MODELS, SCORES_DK)
    ties = sum(size**3 - size for row in SCORES_DK for size in np.unique(row, return_counts=True)[1])
    correction = 1 - ties / (14 * 4 * (4**2 - 1))
    assert ranking.statistic * correction == pytest.approx(9.28, abs=0.01)
    assert ranking.p == pytest.approx(stats.chi2.sf(ranking.statistic, 3))


def test_the_critical_difference_is_demsars():
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(
    ("models", "quantile"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_values_are_those_of_demsars_table_5(models, quantile):
    assert critical_difference(models, 6) == pytest.approx(quantile * np.sqrt(models * (models + 1) / 36), abs=2e-3)


def test_models_closer_than_the_critical_difference_share_a_group():
    ranking = rank_models(MODELS, SCORES_DK)
    assert ranking.groups == [(0, 3)]  # 3.143 - 1.964 is less than 1.25: "not even the largest differs"
    many = rank_models(MODELS, np.tile([0.4, 0.3, 0.2, 0.1], (10, 1)))
    assert many.mean_ranks == [1, 2, 3, 4]
    assert many.critical_difference == pytest.approx(2.569 * np.sqrt(20 / 60), abs=2e-3)
    assert many.groups == [(0, 1), (1, 2), (2, 3)]


def test_equal_scores_share_the_mean_of_their_places():
    np.testing.assert_array_equal(ranks(np.array([[0.5, 0.7, 0.5, 0.1]])), [[2.5, 1, 2.5, 4]])


def test_equal_models_are_not_told_apart_and_nothing_is_divided_by_zero():
    ranking = rank_models(("a", "b", "c"), np.full((5, 3), 0.5))
    assert (ranking.statistic, ranking.p) == (None, None)
    assert ranking.groups == [(0, 2)]


def test_one_dataset_is_ranked_but_not_tested():
    ranking = rank_models(("a", "b", "c"), np.array([[0.1, 0.3, 0.2]]))
    assert ranking.models == ["b", "c", "a"]
    assert (ranking.statistic, ranking.critical_difference, ranking.groups) == (None, None, [])


def test_two_models_over_datasets_are_compared_by_signed_ranks():
    # Demsar (2006), table 2: C4.5+m against C4.5 on the same 14 datasets; T = 12 is below the critical value 21.
    p = signed_rank_p(SCORES_DK[:, 1] - SCORES_DK[:, 0])
    assert p < 0.05
    assert signed_rank_p([0.0, 0.0, 0.0]) is None
    assert signed_rank_p([0.1]) is None
