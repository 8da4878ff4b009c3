"""Tables with missing values and words, against pandas and counts done by hand; survival by them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evaluate.tasks.cohort import Cohort, by_patient
from evaluate.tasks.fitting.abmil import Abmil
from evaluate.tasks.fitting.tables import Table
from evaluate.tasks.survival import CrossValidation, survival_abmil, survival_cox

NUMBERS = np.array([[1.0, 10], [np.nan, 20], [3, 30], [100, np.nan], [5, 50]])
WORDS = np.array([["a"], ["b"], [""], ["z"], ["a"]], dtype=object)


def table(numbers=NUMBERS, words=WORDS):
    return Table(numbers=numbers, categories=words, rows=[np.array([row]) for row in range(len(numbers))])


def test_medians_indicators_and_words_are_those_of_the_training_rows():
    found = np.concatenate(table().encoded(np.array([0, 1, 2])))
    first = pd.Series([1.0, np.nan, 3])
    # The first column lacks a value in training and has an indicator; the second lacks one in testing only.
    expected = [
        #  one, two, one lacks, word "", a, b
        [1, 10, 0, 0, 1, 0],
        [first.median(), 20, 1, 0, 0, 1],
        [3, 30, 0, 1, 0, 0],
        [100, 20, 0, 0, 0, 0],  # "z" is a word that training never had, 20 the median of training
        [5, 50, 0, 0, 1, 0],
    ]
    np.testing.assert_allclose(found, expected)


def test_other_training_rows_say_something_else():
    assert np.concatenate(table().encoded(np.array([3, 4])))[1, 0] == 52.5


def test_a_column_that_training_lacks_is_zero_with_an_indicator():
    numbers = NUMBERS.copy()
    numbers[:2, 1] = np.nan
    found = np.concatenate(table(numbers, WORDS[:, :0]).encoded(np.array([0, 1])))
    np.testing.assert_allclose(found[:, 1], [0, 0, 30, 0, 50])
    np.testing.assert_allclose(found[:, 3], [1, 1, 0, 1, 0])


def test_a_table_of_words_alone_and_several_rows_of_a_patient():
    words = table(np.zeros((5, 0)))
    cohort = by_patient(
        words, patients=["p", "q", "q", "r", "r"], time=np.array([1.0, 2, 2, 3, 3]), event=np.array([1, 0, 0, 1, 1])
    )
    assert cohort.ids == ["p", "q", "r"]
    np.testing.assert_allclose(cohort.pooled(np.array([0, 1])), [[0, 1, 0], [0.5, 0, 0.5], [0, 0.5, 0]])


def drawn(patients=160, *, lost=0.3):
    """Patients whose risk is in a number, of which some are missing, and in a word."""
    rng = np.random.default_rng(1)
    number, word = rng.normal(size=patients), rng.integers(3, size=patients)
    time = rng.exponential(size=patients) * np.exp(-1.2 * number - 1.2 * word) + 0.01
    columns = np.stack([np.where(rng.uniform(size=patients) < lost, np.nan, number), rng.normal(size=patients)], axis=1)
    grades = np.array(["low", "middle", "high"], dtype=object)[word][:, None]
    return Cohort(
        ids=[f"patient {row}" for row in range(patients)],
        features=table(columns, grades),
        time=time,
        event=(rng.uniform(size=patients) < 0.8).astype(int),
    )


def test_survival_uses_what_is_there_of_a_table_with_missing_values():
    cohort = drawn()
    found = survival_cox(cohort).metrics["harrell_c"]
    assert found > 0.7
    without_words = Cohort(
        ids=cohort.ids,
        features=table(cohort.features.numbers, np.zeros((160, 0), object)),
        time=cohort.time,
        event=cohort.event,
    )
    assert survival_cox(without_words).metrics["harrell_c"] < found - 0.05
    network = Abmil(hidden=8, attention=4, lr=1e-2, epochs=15)
    assert survival_abmil(cohort, split=CrossValidation(folds=2), settings=network).metrics["harrell_c"] > 0.65


@pytest.mark.filterwarnings("ignore")
def test_a_fold_learns_medians_from_its_training_patients_alone():
    """A test patient's value changes no other test patient's risk."""
    cohort = drawn()
    train, test = np.arange(100), np.arange(100, 160)
    first = survival_cox(cohort, split=(train, test)).predictions.columns["risk"]
    numbers = cohort.features.numbers.copy()
    numbers[159] = 1e6
    spoilt = Cohort(
        ids=cohort.ids, features=table(numbers, cohort.features.categories), time=cohort.time, event=cohort.event
    )
    second = survival_cox(spoilt, split=(train, test)).predictions.columns["risk"]
    np.testing.assert_array_equal(first[:-1], second[:-1])
