"""``python -m extract``: draw or index a corpus, run the teachers over it, import a released cache."""

from __future__ import annotations

import typer

from . import commands_check, commands_corpus, commands_doctor, commands_fetch, commands_run, commands_teachers

app = typer.Typer(help="Turn a corpus into a store of teacher features.", no_args_is_help=True, add_completion=False)

for commands in (commands_doctor, commands_corpus, commands_run, commands_check, commands_teachers, commands_fetch):
    app.add_typer(commands.app)
