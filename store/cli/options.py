"""Arguments and options that several commands share."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

PIPELINES_FILE = Path("pipelines.yaml")

PipelineOption = Annotated[str, typer.Option("--pipeline", help="Name of the pipeline in the configuration file.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one value, e.g. --set train.students.distilled.optimization.lr=3e-4"),
]

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The store's folder or URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CorpusRootOption = Annotated[
    str | None, typer.Option(help="Folder of the images, if the corpus moved since it was indexed.")
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PLACE", help="Also read images from this host, folder or URL; may be given several times."),
]
TeacherOption = Annotated[str | None, typer.Option("--teacher", help="Only this teacher.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**64 - 1, help="Decides everything that is drawn at random.")
]
SampleOption = Annotated[int, typer.Option("--sample", min=2, help="Read the features of at most this many rows.")]
DeepOption = Annotated[bool, typer.Option("--deep", help="Read and check every stored byte.")]

WIDTH = 160
"""Width of tables where stdout is no terminal; 80 characters would cut the columns."""


def options_of(pipeline: str, config: Path) -> str:
    """Return the options that name a pipeline, as they are typed."""
    more = "" if config == PIPELINES_FILE else f" --config {shlex.quote(str(config))}"
    return f"--pipeline {shlex.quote(pipeline)}{more}"


def wide_console() -> Console:
    """Return a console for tables of many columns."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def print_json(value: Any) -> None:
    """Write a JSON value to stdout; numbers that are not finite, which JSON does not have, become null."""
    sys.stdout.write(json.dumps(to_jsonable_python(value, inf_nan_mode="null"), indent=1, allow_nan=False) + "\n")
