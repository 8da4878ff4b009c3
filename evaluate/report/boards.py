"""Results of many models side by side: one board per task; only comparable results share a column.

Pure functions of records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluate.metrics.model_ranks import Ranking, rank_models
from evaluate.metrics.registry import METRICS
from evaluate.results.record import (
    DIGEST_SHOWN,
    ORACLE,
    DatasetFacts,
    ModelFacts,
    Overlap,
    Result,
    ResultRecord,
    SkippedRecord,
)

ROLE_ORDER = ("student", "task_only", "teacher", "oracle", "other")
"""Order of the roles where ranks do not decide."""

Key = tuple[str, str | None, str | None, int | None, tuple[str, ...]]


@dataclass(kw_only=True, frozen=True, slots=True)
class Column:
    """A test set and its primary metric; all numbers of a column are of the same items.

    Attributes:
        metric: the primary metric; None if no model has a result.
        n: test items; None like metric.
        title: title of the dataset, with what distinguishes it from another column of the same dataset.
        protocol: ``ResultRecord.protocol``; empty like metric.
    """

    dataset: DatasetFacts
    metric: str | None
    n: int | None
    title: str
    protocol: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """Everything that makes numbers comparable: dataset, split, metric, number of items, data and prompts."""
        return self.dataset.name, self.dataset.split_digest, self.metric, self.n, self.protocol

    @property
    def higher_is_better(self) -> bool:
        """Return whether more is better; False for ranks."""
        return self.metric is None or METRICS[self.metric].higher_is_better


@dataclass(kw_only=True, frozen=True, slots=True)
class Board:
    """All results of a task.

    Attributes:
        models: best mean rank first; without one, by role and name.
        columns: sorted by modality and dataset.
        cells: results by place in models and in columns; missing if a pair was never evaluated.
        ranking: over the columns that all models have; None if there is none.
    """

    task: str
    models: list[ModelFacts]
    columns: list[Column]
    cells: dict[tuple[int, int], Result]
    ranking: Ranking | None
    notes: list[str]

    def result(self, row: int, column: int) -> ResultRecord | None:
        """Return a result; None if it was skipped or never tried."""
        found = self.cells.get((row, column))
        return found if isinstance(found, ResultRecord) else None

    def row_of(self, model: str) -> int | None:
        """Return the place of a model by its name; None if the task has no result of it."""
        return next((row for row, one in enumerate(self.models) if one.name == model), None)

    def is_best(self, row: int, column: int) -> bool:
        """Return whether no other model has a better value in a column; one that is alone is not the best.

        The oracle does not compete.
        """
        found = None if self.models[row].role == ORACLE else self.result(row, column)
        competing = [other for other, model in enumerate(self.models) if other != row and model.role != ORACLE]
        others = [self.result(other, column) for other in competing]
        values = [_without_noise(other) for other in others if other is not None]
        if found is None or not values:
            return False
        value = _without_noise(found)
        return value >= max(values) if self.columns[column].higher_is_better else value <= min(values)

    def overlaps(self, column: int) -> list[Overlap | None]:
        """Return the different overlaps that the results of a column state; None for one that was not looked for."""
        found = [self.result(row, column) for row in range(len(self.models))]
        return list({repr(one.overlap): one.overlap for one in found if one is not None}.values())

    def mean_rank(self, row: int) -> float | None:
        """Return a model's mean rank; None for one that is not ranked."""
        name = self.models[row].name
        if self.ranking is None or name not in self.ranking.models:
            return None
        return self.ranking.mean_ranks[self.ranking.models.index(name)]


def boards(results: Sequence[Result]) -> list[Board]:
    """Return the board of each task; few-shot probes are sorted by their shots."""
    tasks = sorted({result.task for result in results}, key=_task_order)
    return [_board(task, [one for one in results if one.task == task]) for task in tasks]


def _task_order(task: str) -> tuple[str, int]:
    digits = "".join(filter(str.isdigit, task))
    return "".join(letter for letter in task if not letter.isdigit()), int(digits or 0)


def _board(task: str, results: Sequence[Result]) -> Board:
    columns = _columns(results)
    # A model's records may be of several versions of it, which the notes mention.
    by_name = {result.model.name: result.model for result in results}
    cells = {
        (model, place): result
        for result in results
        for place, column in enumerate(columns)
        for model in [result.model.name]
        if _belongs(result, column)
    }
    with_result = {result.model.name for result in results if isinstance(result, ResultRecord)}
    listed = sorted(by_name, key=lambda name: (ROLE_ORDER.index(by_name[name].role), name))
    competing = [name for name in listed if name in with_result and by_name[name].role != ORACLE]
    ranking = _ranking(competing, columns, cells)
    ranked = ranking.models if ranking else []
    # Models without a rank follow; those with results come first.
    order = [
        *ranked,
        *sorted(set(listed) - set(ranked), key=lambda name: (name not in with_result, listed.index(name))),
    ]
    return Board(
        task=task,
        models=[by_name[name] for name in order],
        columns=columns,
        cells={(order.index(model), place): result for (model, place), result in cells.items()},
        ranking=ranking,
        notes=_notes(results, columns, ranking),
    )


def _columns(results: Sequence[Result]) -> list[Column]:
    found: dict[Key, Column] = {}
    evaluated = [result for result in results if isinstance(result, ResultRecord)]
    for one in evaluated:
        column = Column(
            dataset=one.dataset, metric=one.primary, n=one.n, title=one.dataset.title, protocol=one.protocol
        )
        found.setdefault(column.key, column)
    names = {column.dataset.name for column in found.values()}
    for result in results:
        if isinstance(result, SkippedRecord) and result.dataset.name not in names:
            column = Column(dataset=result.dataset, metric=None, n=None, title=result.dataset.title)
            found.setdefault(column.key, column)
    columns = [_told_apart(column, list(found.values())) for column in found.values()]
    return sorted(columns, key=lambda column: (column.metric is None, column.dataset.modality, column.title))


def _told_apart(column: Column, columns: Sequence[Column]) -> Column:
    if sum(other.dataset.name == column.dataset.name for other in columns) == 1 or column.dataset.split_digest is None:
        return column
    split = column.dataset.split_digest[:DIGEST_SHOWN]
    words = [
        kind + sign + digest[:DIGEST_SHOWN] for kind, sign, digest in (one.partition(" ") for one in column.protocol)
    ]
    title = f"{column.title} ({', '.join([f'split {split}', f'{column.n} items', str(column.metric), *words])})"
    return replace(column, title=title)


def _belongs(result: Result, column: Column) -> bool:
    if isinstance(result, SkippedRecord):
        return result.dataset.name == column.dataset.name
    found = result.dataset
    return (found.name, found.split_digest, result.primary, result.n, result.protocol) == column.key


def _ranking(models: Sequence[str], columns: Sequence[Column], cells: dict[tuple[str, int], Result]) -> Ranking | None:
    rows = []
    for place, column in enumerate(columns):
        found = [cells.get((model, place)) for model in models]
        values = [_without_noise(result) for result in found if isinstance(result, ResultRecord)]
        if len(values) == len(models):
            rows.append([value if column.higher_is_better else -value for value in values])
    return rank_models(models, np.array(rows)) if rows and len(models) > 1 else None


def _without_noise(result: ResultRecord) -> float:
    """Return a value without its last digits: sums in another order differ there, and equal models must tie."""
    return round(result.value, 12)


def _notes(results: Sequence[Result], columns: Sequence[Column], ranking: Ranking | None) -> list[str]:
    notes = []
    digests: dict[str, set[str]] = {}
    for result in results:
        if isinstance(result, ResultRecord):
            digests.setdefault(result.model.name, set()).add(result.model.digest[:DIGEST_SHOWN])
    for name, versions in sorted(digests.items()):
        if len(versions) > 1:
            notes.append(
                f"{name}: its results are of {len(versions)} versions of the model ({', '.join(sorted(versions))})"
            )
    names = [column.dataset.name for column in columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    apart = "evaluated on different splits, items, data, prompts or metrics, which stand in columns of their own"
    notes += [f"{name}: {apart}" for name in repeated]
    notes += [f"{column.title}: {caveat}" for column in columns for caveat in column.dataset.caveats]
    evaluated = sum(column.metric is not None for column in columns)
    if len(digests) > 1 and (ranking is None or ranking.datasets < evaluated):
        ranked = ranking.datasets if ranking else 0
        notes.append(f"ranks are over the {ranked} of {evaluated} datasets that every model has a result on")
    return notes
