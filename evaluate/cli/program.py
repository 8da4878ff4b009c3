"""``python -m evaluate``: compare students with their teachers."""

from __future__ import annotations

import typer

from . import commands_datasets, commands_images, commands_results, commands_run, demo

app = typer.Typer(help="Compare students with their teachers.", no_args_is_help=True, add_completion=False)

for commands in (commands_run, commands_images, commands_datasets, commands_results, demo):
    app.add_typer(commands.app)
