"""The first look at all results: tasks and test sets as rows, models as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.metrics.bootstrap import Interval
from evaluate.results.record import ModelFacts, Overlap, Result, ResultRecord

from .boards import ROLE_ORDER, Board, Column
from .comparison import few_items
from .contents import Contents, Means
from .drawing.probe_curves import Curve, training_items


@dataclass(kw_only=True, frozen=True, slots=True)
class SetRow:
    """A row of the overview.

    Attributes:
        cells: by model, None where it was never evaluated.
        best: names of the models that no other one surpasses; empty where there is one model only.
    """

    column: Column
    overlaps: list[Overlap | None]
    cells: list[Result | None]
    best: frozenset[str]


@dataclass(kw_only=True, frozen=True, slots=True)
class TaskRows:
    """A task's rows.

    Attributes:
        means: by model, over the test sets that all have; None where there is none.
        common: number of these test sets.
        ranks: mean rank by model; None where it is not ranked.
    """

    task: str
    means: list[Interval | None]
    common: int
    ranks: list[float | None]
    rows: list[SetRow]
    notes: list[str]


def models_of(contents: Contents) -> list[ModelFacts]:
    """Return all models, students first; of several versions of one, the last."""
    known = {result.model.name: result.model for result in contents.results}
    return sorted(known.values(), key=lambda one: (ROLE_ORDER.index(one.role), one.name))


def overview(contents: Contents, models: Sequence[ModelFacts]) -> list[TaskRows]:
    """Return the rows of each task that uses all its training items; ``probe_curves_of`` has the others."""
    pairs = zip(contents.boards, contents.means, strict=True)
    return [_task(board, means, models) for board, means in pairs if not few_items(board.task)]


def _task(board: Board, means: Means, models: Sequence[ModelFacts]) -> TaskRows:
    places = [board.row_of(model.name) for model in models]
    evaluated = sum(column.metric is not None for column in board.columns)
    return TaskRows(
        task=board.task,
        means=[means.overall.get(model.name) for model in models],
        common=evaluated - means.left_out,
        ranks=[None if row is None else board.mean_rank(row) for row in places],
        rows=[_row(board, column, places) for column in range(len(board.columns))],
        notes=board.notes,
    )


def _row(board: Board, column: int, places: Sequence[int | None]) -> SetRow:
    best = [row for row in places if row is not None and board.is_best(row, column)]
    return SetRow(
        column=board.columns[column],
        overlaps=board.overlaps(column),
        cells=[None if row is None else board.cells.get((row, column)) for row in places],
        best=frozenset(board.models[row].name for row in best),
    )


def probe_curves_of(contents: Contents) -> list[dict[str, Curve]]:
    """Return by test set and model the linear probes by their number of training items, where there are several."""
    found: dict[tuple[str, str, str, int], dict[str, list[ResultRecord]]] = {}
    for record in contents.records:
        if record.task.startswith("linear_probe") and training_items(record):
            key = record.dataset.title, record.split_digest, record.primary, record.n
            found.setdefault(key, {}).setdefault(record.model.name, []).append(record)
    sets: list[dict[str, Curve]] = []
    for _, by_model in sorted(found.items()):
        for curve in by_model.values():
            curve.sort(key=lambda one: (training_items(one) or 0, few_items(one.task)))
        if any(len(curve) > 1 for curve in by_model.values()):
            sets.append(dict(by_model))
    return sets
