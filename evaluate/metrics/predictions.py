"""A model's predictions for every test item.

Axes: N test items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

Columns = Mapping[str, npt.NDArray[Any]]
"""Arrays by name whose first axis is the test items."""

Weights = npt.NDArray[Any]
"""(R, N): how often each of R resamples holds each test item."""

Samples = npt.NDArray[np.float64]
"""(R,): a metric on each resample."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Predictions:
    """Predictions for every test item: enough to compute each metric again, also on resamples.

    Attributes:
        ids: N distinct names of the test items.
        clusters: N names of what the items come from (patient, slide, image), or None. A resample by clusters takes all
            items of one together.
        columns: arrays whose first axis are the test items. A column ``score.1`` is what ``score`` is, by a model
            trained with the second seed; see ``metrics.seed_views``.
        strata: the column within whose values a stratified resample draws, or None where there is no such thing.
    """

    ids: list[str]
    clusters: list[str] | None = None
    columns: dict[str, npt.NDArray[Any]]
    strata: str | None = None

    def __post_init__(self) -> None:
        """Check that every column has a value per item."""
        count = len(self.ids)
        if not count:
            raise EvaluationError("there is no test item")
        if len(set(self.ids)) != count:
            raise EvaluationError(f"{count - len(set(self.ids))} of {count} test items have the name of another one")
        lengths = {name: len(column) for name, column in self.columns.items()}
        if self.clusters is not None:
            lengths["clusters"] = len(self.clusters)
        wrong = {name: length for name, length in lengths.items() if length != count}
        if wrong:
            raise EvaluationError(f"there are {count} test items, but other numbers of values: {wrong}")
        if self.strata is not None and self.strata not in self.columns:
            raise EvaluationError(f"the column of strata, {self.strata!r}, is not one of {', '.join(self.columns)}")
