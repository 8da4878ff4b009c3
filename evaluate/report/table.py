"""Accuracy by group as one table on the screen, and as the values of the demo's report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from evaluate.metrics.registry import IN_GROUP
from evaluate.results.record import Result, ResultRecord
from store.console import styled

ROLES = ("teacher", "oracle", "other", "task_only", "student")
"""Order of the rows."""

HEADING_CHARS = 4
"""Letters of a modality in the heading of its column: nine modalities then fit 80 characters."""


def by_group(results: Iterable[Result]) -> dict[str, dict[str, Any]]:
    """Return role, mean accuracy over groups, and accuracy by group of each model on one dataset with groups."""
    records = [one for one in results if isinstance(one, ResultRecord) and "groups" in one.details]
    return {
        one.model.name: {
            "role": one.model.role,
            "macro_accuracy": one.metrics["group_accuracy"].value,
            "by_modality": {group: one.metrics[f"{IN_GROUP}{group}"].value for group in one.details["groups"]},
        }
        for one in sorted(records, key=lambda one: (ROLES.index(one.model.role), one.model.name))
    }


def results_table(models: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    """Return a table of what ``by_group`` returns, best in each column in bold; the oracle does not compete."""
    modalities = list(next(iter(models.values()))["by_modality"])
    columns = [*modalities, "macro"]
    table = Table(title=title, box=SIMPLE, padding=0, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in [*(modality[:HEADING_CHARS] for modality in modalities), "macro"]:
        table.add_column(styled(heading), no_wrap=True)
    rows = sorted(models, key=lambda name: (ROLES.index(models[name]["role"]), name))
    competing = [models[name] for name in rows if models[name]["role"] != "oracle"]
    best = {column: max((_value(model, column) for model in competing), default=None) for column in columns}
    for place, name in enumerate(rows):
        values = {column: _value(models[name], column) for column in columns}
        cells = [
            f"[bold]{value:.2f}[/]" if value == best[column] else f"{value:.2f}" for column, value in values.items()
        ]
        role = models[name]["role"]
        last_of_role = place + 1 == len(rows) or models[rows[place + 1]]["role"] != role
        table.add_row(styled(name), *cells, end_section=last_of_role)
    return table


def _value(model: Mapping[str, Any], column: str) -> float:
    return float(model["macro_accuracy"] if column == "macro" else model["by_modality"][column])
