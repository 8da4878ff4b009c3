"""The results of one model as a table for its model card."""

from __future__ import annotations

from collections.abc import Sequence

from evaluate.metrics.registry import METRICS
from evaluate.results.record import DIGEST_SHOWN, Result, ResultRecord, teachers_of

from .boards import Board, boards
from .comparison import few_items
from .wording import in_words, markdown, number, seeds_spread, table_line

HEADS = ("task", "test set", "metric", "value [95 %]", "best teacher", "n", "split")


def model_card(results: Sequence[Result], model: str) -> str:
    """Return Markdown: each result of a model beside that of the best teacher, by the same test items and metric.

    Probes with few training items are left out. ``python -m train export --results FILE`` puts it into a model card.
    """
    lines = []
    for board in boards(results):
        row = board.row_of(model)
        if row is not None and not few_items(board.task):
            lines += [_line(board, row, place) for place in range(len(board.columns)) if board.result(row, place)]
    if not lines:
        return "No results."
    said = "Values are of test sets, with 95 % intervals. They say nothing of clinical use."
    return "\n".join([table_line(HEADS), table_line(["---"] * len(HEADS)), *lines, "", said])


def _line(board: Board, row: int, place: int) -> str:
    column, record = board.columns[place], board.result(row, place)
    assert record is not None  # noqa: S101 - the caller looked
    metric = record.metrics[record.primary]
    own = teachers_of([board.models[row]], board.models)
    rivals = [board.result(other, place) for other, one in enumerate(board.models) if one.name in own]
    best = _best([rival for rival in rivals if rival is not None], higher_is_better=column.higher_is_better)
    cells = [
        in_words(board.task),
        markdown(column.title),
        METRICS[record.primary].title + ("" if column.higher_is_better else " (less is better)"),
        f"{metric}{seeds_spread(record.seeds.get(record.primary))}",
        "–" if best is None else f"{number(best.value)} ({markdown(best.model.name)})",
        f"{record.n:,}",
        markdown(record.split_digest[:DIGEST_SHOWN]),
    ]
    return table_line(cells)


def _best(records: Sequence[ResultRecord], *, higher_is_better: bool) -> ResultRecord | None:
    sign = 1 if higher_is_better else -1
    return max(records, key=lambda one: sign * one.value, default=None)
