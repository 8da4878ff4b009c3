"""``python -m store``: inspects, checks, compares, repairs and exports a feature store."""

from __future__ import annotations

import typer

from . import (
    commands_check,
    commands_data,
    commands_features,
    commands_info,
    commands_look,
    commands_report,
    commands_schema,
    commands_upgrade,
)

app = typer.Typer(help="Inspect, check, repair and export a feature store.", no_args_is_help=True, add_completion=False)

for commands in (
    commands_info,
    commands_report,
    commands_check,
    commands_data,
    commands_look,
    commands_features,
    commands_schema,
    commands_upgrade,
):
    app.add_typer(commands.app)
