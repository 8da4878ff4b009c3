"""A table of features with missing values and words, made into numbers by what the training rows say.

Axes: M rows, N patients, D columns of numbers, K columns of words, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

Rows = npt.NDArray[np.int64]


@dataclass(kw_only=True, frozen=True, slots=True)
class Table:
    """Rows of a table, and to which patient they belong.

    Attributes:
        numbers: (M, D) float64, NaN where a value is missing.
        categories: (M, K) words, empty where one is missing.
        rows: the row numbers of each of N patients.
    """

    numbers: npt.NDArray[np.float64]
    categories: npt.NDArray[np.object_]
    rows: list[Rows]

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)

    @classmethod
    def stacked(cls, tables: Sequence[Table]) -> Table:
        """Return the rows of several tables with the same columns as one, each row a patient."""
        numbers = np.concatenate([table.numbers for table in tables])
        categories = np.concatenate([table.categories for table in tables])
        return cls(numbers=numbers, categories=categories, rows=[np.array([row]) for row in range(len(numbers))])

    def joined(self, patients: list[list[int]]) -> Table:
        """Return a table in which several of its patients are one."""
        return replace(self, rows=[np.concatenate([self.rows[number] for number in own]) for own in patients])

    def encoded(self, train: Rows) -> list[npt.NDArray[np.float64]]:
        """Return the features of each patient, N arrays (rows, F), by what the training patients say.

        A missing number becomes the median of its column, and a column that misses some gets another one, 1 where the
        number was missing. Each word of a column becomes a column of 0 and 1; a missing word is one too, and words that
        no training patient has are 0 everywhere.

        Args:
            train: numbers of the training patients.
        """
        fit = np.concatenate([self.rows[patient] for patient in train])
        parts = []
        if self.numbers.shape[1]:
            imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
            parts.append(imputer.fit(self.numbers[fit]).transform(self.numbers))
        if self.categories.shape[1]:
            encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
            parts.append(encoder.fit(self.categories[fit]).transform(self.categories))
        features_MF = np.concatenate(parts, axis=1)
        return [features_MF[own] for own in self.rows]
