"""``python -m store``: look into a feature store, check it, mend it, compare it, write it to other files."""

from __future__ import annotations

import typer

from . import commands_check, commands_data, commands_features, commands_info, commands_look

app = typer.Typer(help="Look into a feature store, check it, mend it.", no_args_is_help=True, add_completion=False)

for commands in (commands_info, commands_check, commands_data, commands_look, commands_features):
    commands.add_commands(app)
