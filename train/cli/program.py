"""The program ``python -m train``: its commands, put together."""

from __future__ import annotations

import typer

from . import commands_curves, commands_export, commands_train

INTERRUPTED = "the same command goes on from the last checkpoint"
"""Printed after Ctrl-C: an interrupted training writes a checkpoint, and finished trainings stay."""

app = typer.Typer(help="Train models: stage 1, projections, stage 2.", no_args_is_help=True, add_completion=False)
app.add_typer(commands_train.app)
app.add_typer(commands_curves.app)
app.add_typer(commands_export.app)
