"""``leaderboard.csv``, ``.md`` and ``.json``: all results of a folder, models by datasets, one board per task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluate.metrics.registry import METRICS
from evaluate.results.files import read_results
from evaluate.results.record import DIGEST_SHOWN, SkippedRecord
from store.console import cell
from store.files import write_atomic

from .boards import Board, boards
from .wording import markdown, table_line

FORMAT = 1
"""Version of leaderboard.json."""

CSV_FIELDS = (
    *("task", "model", "role", "mean_rank", "dataset", "modality", "provenance", "metric", "value", "low", "high"),
    *("best", "n", "method", "bootstrap", "resamples", "failed", "caution", "seeds", "seed_mean", "seed_sd"),
    *("split_digest", "model_digest"),
    *("overlap_exact", "overlap_near", "overlap_store", "skipped"),
)


def write_leaderboards(folder: Path) -> list[Path]:
    """Write the three leaderboards of a folder of results into it; return their paths.

    Raises:
        EvaluationError: there are no results, or one is damaged.
    """
    found = boards(read_results(folder))
    texts = {"csv": as_csv(found), "md": as_markdown(found), "json": json.dumps(as_json(found), indent=1) + "\n"}
    paths = []
    for suffix, text in texts.items():
        path = folder / f"leaderboard.{suffix}"
        write_atomic(path, text.encode())
        paths.append(path)
    return paths


def as_csv(found: Sequence[Board]) -> str:
    """Return one line per model and dataset, for spreadsheets and data frames."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for board in found:
        for row in range(len(board.models)):
            for place in range(len(board.columns)):
                if (row, place) in board.cells:
                    writer.writerow({name: cell(value) for name, value in _flat(board, row, place).items()})
    return buffer.getvalue()


def _flat(board: Board, row: int, place: int) -> dict[str, Any]:
    result = board.cells[row, place]
    line: dict[str, Any] = {
        "task": board.task,
        "model": result.model.name,
        "role": result.model.role,
        "mean_rank": board.mean_rank(row),
        "dataset": result.dataset.name,
        "modality": result.dataset.modality,
        "provenance": result.dataset.provenance,
    }
    if isinstance(result, SkippedRecord):
        return {**line, "skipped": result.skipped}
    metric, seeds = result.metrics[result.primary], result.seeds.get(result.primary)
    if seeds is not None:
        line |= {"seeds": len(seeds.values), "seed_mean": seeds.mean, "seed_sd": seeds.sd}
    if result.overlap is not None:
        line |= {f"overlap_{name}": value for name, value in result.overlap.model_dump().items()}
    return line | {
        "metric": result.primary,
        **metric.model_dump(),
        "best": board.is_best(row, place),
        "n": result.n,
        "bootstrap": result.bootstrap.mode,
        "split_digest": result.split_digest,
        "model_digest": result.model.digest,
    }


def as_json(found: Sequence[Board]) -> dict[str, Any]:
    """Return the boards as JSON values."""
    tasks = [
        {
            "task": board.task,
            "ranking": None if board.ranking is None else asdict(board.ranking),
            "notes": board.notes,
            "datasets": [
                {"name": column.dataset.name, "title": column.title, "metric": column.metric, "n": column.n}
                for column in board.columns
            ],
            "results": [_flat(board, *place) for place in sorted(board.cells)],
        }
        for board in found
    ]
    return {"format": FORMAT, "tasks": tasks}


def as_markdown(found: Sequence[Board]) -> str:
    """Return tables of models by datasets: value and interval, the best in bold, what was skipped with its reason."""
    sections = [
        "# Leaderboard",
        "",
        "Values with 95 % intervals; the best of a column is bold. `skipped` has a reason below.",
    ]
    for board in found:
        sections += ["", f"## {board.task}", "", *_table(board), *_below(board)]
    return "\n".join(sections) + "\n"


def _table(board: Board) -> list[str]:
    heads = ["model", "mean rank", *(_head(board, place) for place in range(len(board.columns)))]
    lines = [table_line(heads), table_line(["---"] * len(heads))]
    for row, model in enumerate(board.models):
        rank = board.mean_rank(row)
        name = f"{markdown(model.name)} ({model.role}, {markdown(model.digest[:DIGEST_SHOWN])})"
        cells = [_cell(board, row, place) for place in range(len(board.columns))]
        lines.append(table_line([name, "–" if rank is None else f"{rank:.2f}", *cells]))
    return lines


def _head(board: Board, place: int) -> str:
    column = board.columns[place]
    if column.metric is None:
        return markdown(column.title)
    split = (column.dataset.split_digest or "")[:DIGEST_SHOWN]
    arrow = "" if column.higher_is_better else ", less is better"
    return f"{markdown(column.title)}: {METRICS[column.metric].title}{arrow}, n = {column.n:,}, split {markdown(split)}"


def _cell(board: Board, row: int, place: int) -> str:
    result = board.cells.get((row, place))
    if result is None:
        return "–"
    if isinstance(result, SkippedRecord):
        return "skipped"
    number, _, rest = str(result.metrics[result.primary]).partition(" ")
    number = f"**{number}**" if board.is_best(row, place) else number
    seeds = result.seeds.get(result.primary)
    spread = "" if seeds is None or seeds.sd is None else f"; seeds sd {seeds.sd:.3f} ({len(seeds.values)})"
    return f"{number} {rest}{spread}"


def _below(board: Board) -> list[str]:
    lines = list(board.notes)
    if board.ranking is not None and board.ranking.critical_difference is not None:
        friedman = "" if board.ranking.p is None else f"; Friedman p = {board.ranking.p:.3g}"
        lines.append(
            f"Mean ranks over {board.ranking.datasets} datasets{friedman}; "
            f"Nemenyi's critical difference is {board.ranking.critical_difference:.2f}"
        )
    # Most reasons are the same for all models.
    skips = [one for one in board.cells.values() if isinstance(one, SkippedRecord)]
    lines += dict.fromkeys(f"{one.dataset.title}: skipped: {one.skipped}" for one in skips)
    lines += [
        f"{column.title}: {overlap.exact:,} test images occur in the training corpus {overlap.store}, "
        f"{overlap.near:,} more nearly"
        for place, column in enumerate(board.columns)
        for overlap in board.overlaps(place)
        if overlap is not None
    ]
    return ["", *(f"- {markdown(line)}" for line in lines)] if lines else []
