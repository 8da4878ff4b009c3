"""Results as one table on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

ROLES = ("teacher", "oracle", "task_only", "student")
"""In the order in which they are shown."""


def results_table(models: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    """Return a table of accuracies by modality and macro, best in each column in bold; the oracle does not compete.

    Args:
        models: by name, each with role, macro_accuracy and by_modality.
        title: above the table.
    """
    modalities = list(next(iter(models.values()))["by_modality"])
    table = Table("model", "role", *modalities, "macro", title=title)
    rows = sorted(models, key=lambda name: (ROLES.index(models[name]["role"]), name))
    best = {
        column: max(_value(models[n], column) for n in rows if models[n]["role"] != "oracle")
        for column in [*modalities, "macro"]
    }
    for name in rows:
        values = {column: _value(models[name], column) for column in best}
        cells = [f"[bold]{v:.3f}[/]" if v == best[column] else f"{v:.3f}" for column, v in values.items()]
        table.add_row(name, models[name]["role"], *cells)
    return table


def _value(model: Mapping[str, Any], column: str) -> float:
    return float(model["macro_accuracy"] if column == "macro" else model["by_modality"][column])
