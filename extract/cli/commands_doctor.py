"""``python -m extract doctor``: sees before a run whether everything that it needs is there."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from store.cli.options import (
    PIPELINES_FILE,
    ConfigOption,
    JsonOption,
    PipelineOption,
    SetOption,
    options_of,
    print_json,
)
from store.console import ExitCode
from store.errors import printable

from .commands_run import PlaceOption, loaded_pipeline

if TYPE_CHECKING:
    from extract.doctor.finding import Finding

app = typer.Typer()

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@app.command(epilog="Example: python -m extract doctor --pipeline demo")
def doctor(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    store: PlaceOption = None,
    profile: Annotated[
        Path | None, typer.Option(help="JSON of `extract teachers --profile`: the memory that teachers need.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """See before a run whether everything that it needs is there; exit with 1 if it cannot succeed.

    It looks at Python, torch, driver, memory, weights, hub, corpus, disk, locks or object storage, Ray, limits. Each
    check is ok, warn or fail, with the next step. Nothing that it writes stays; no cluster is started.
    """
    from extract.doctor.examine import examine

    loaded = loaded_pipeline(config, pipeline, set_, store)
    found: list[Finding] = []
    for finding in examine(loaded, options=options_of(pipeline, config), profile=profile):
        found.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        counts = Counter[str](finding.state for finding in found)
        Console().print(Text(", ".join(f"{counts[state]} {state}" for state in COLOURS)), soft_wrap=True)
    return ExitCode.BAD_INPUT if any(finding.state == "fail" for finding in found) else ExitCode.COMPLETE


def _print(finding: Finding) -> None:
    console = Console()
    line = Text(f"{finding.state:<5}", style=COLOURS[finding.state])
    console.print(line.append(printable(f"{finding.check}: {finding.said}"), style="default"), soft_wrap=True)
    if finding.next:
        console.print(Text(printable(f"     next: {finding.next}")), soft_wrap=True)
