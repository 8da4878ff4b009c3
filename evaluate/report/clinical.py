"""The tables that a clinician reads: decisions at a threshold, calibration, subgroups; and what the prompts decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evaluate.metrics.registry import METRICS, metrics_named
from evaluate.metrics.retrieval import RECALL_AT
from evaluate.results.record import ResultRecord
from evaluate.tasks.classified import OF_DECISIONS

from .boards import ROLE_ORDER
from .comparison import few_items
from .wording import in_words, number

SHOWN = (*OF_DECISIONS, "brier", "ece")
"""Metrics of the table of decisions and probabilities."""

RECALLS = tuple(f"{side}_recall_at_{k}" for side in ("i2t", "t2i") for k in RECALL_AT)
NOTHING = "–"

Table = tuple[str, list[str], list[list[str]]]
"""Caption, heads and rows."""


def decision_tables(records: Sequence[ResultRecord]) -> list[Table]:
    """Return a table per test set and task: what each model's decisions and probabilities are worth."""
    return _tables(records, _decisions, ["model", *(METRICS[name].title for name in SHOWN), "threshold"])


def _decisions(record: ResultRecord) -> list[list[str]]:
    found = [record.metrics.get(name) for name in SHOWN]
    if few_items(record.task) or not any(found):
        return []
    return [[record.model.name, *(NOTHING if one is None else str(one) for one in found), _threshold(record)]]


def _threshold(record: ResultRecord) -> str:
    said, share = record.details.get("threshold"), record.details.get("prevalence")
    if not isinstance(said, dict) or not said.get("probability"):
        return NOTHING
    text = f"probability {number(said['probability'][0])}, by {said.get('by', 'a rule that is not recorded')}"
    if isinstance(share, dict):
        value = share.get("value")
        text += f"; prevalence: {'' if value is None else f'{value:g}, '}{share.get('by', '')}"
    return text


def subgroup_tables(records: Sequence[ResultRecord]) -> list[Table]:
    """Return a table per test set and task: the primary metric of each model in each subgroup."""
    return _tables(records, _subgroups, ["model", "subgroup", "items", "metric", "value [95 %]"])


def _subgroups(record: ResultRecord) -> list[list[str]]:
    parts = record.details.get("subgroups")
    if few_items(record.task) or not isinstance(parts, dict):
        return []
    rows = []
    for column, values in parts.items():
        for value, part in values.items():
            metric = record.metrics.get(part.get("metric") or "")
            shown = "not defined" if metric is None else str(metric)
            rows.append([record.model.name, f"{column} {value}", f"{part['n']:,}", _title(record.primary), shown])
    return rows


def prompt_tables(records: Sequence[ResultRecord]) -> list[Table]:
    """Return a table per test set and task: how far single templates of the prompts differ, by model."""
    heads = ["model", "metric", "all templates", "sd of single ones", "worst", "best", "template of the worst"]
    return _tables(records, _prompts, heads)


def _prompts(record: ResultRecord) -> list[list[str]]:
    said: Any = record.details.get("prompts")
    spread = said.get("spread") if isinstance(said, dict) else None
    if not isinstance(spread, dict):
        return []
    worst = min(said["templates"], key=lambda one: one["value"])
    ends = [number(spread[name]) for name in ("sd", "low", "high")]
    return [[record.model.name, _title(record.primary), number(record.value), *ends, worst["template"]]]


def strict_tables(records: Sequence[ResultRecord]) -> list[Table]:
    """Return a table per test set: recalls that count an equal caption of another image as wrong, beside the mean."""
    return _tables(
        records,
        _strict,
        ["model", "mean recall", "strict mean recall", *(f"strict {METRICS[name].title}" for name in RECALLS)],
    )


def _strict(record: ResultRecord) -> list[list[str]]:
    said: Any = record.details.get("strict")
    if not isinstance(said, dict) or not {"mean_recall", *RECALLS} <= set(said):
        return []
    cells = [number(said[name]) for name in ("mean_recall", *RECALLS)]
    return [[record.model.name, str(record.metrics["mean_recall"]), *cells]]


def _title(metric: str) -> str:
    return metrics_named([metric])[metric].title


def _tables(
    records: Sequence[ResultRecord], rows_of: Callable[[ResultRecord], list[list[str]]], heads: list[str]
) -> list[Table]:
    found: dict[str, list[list[str]]] = {}
    for record in sorted(records, key=lambda one: (ROLE_ORDER.index(one.model.role), one.model.name)):
        rows = rows_of(record)
        if rows:
            found.setdefault(f"{record.dataset.title}, {in_words(record.task).lower()}", []).extend(rows)
    return [_without_empty(caption, heads, rows) for caption, rows in sorted(found.items())]


def _without_empty(caption: str, heads: list[str], rows: list[list[str]]) -> Table:
    """Leave out columns that no row has anything in."""
    kept = [place for place in range(len(heads)) if any(row[place] != NOTHING for row in rows)]
    return caption, [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]
