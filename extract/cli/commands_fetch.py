"""``python -m extract fetch``: downloads teachers' files and converts their weights."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from extract.config import ExtractPipeline
from extract.teacher_files.entry import TeacherEntry
from store.cli.options import PIPELINES_FILE, ConfigOption, SetOption, options_of, wide_console
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.console import ExitCode, render_error, say_next
from store.errors import ConfigError, TeacherError

from .commands_teachers import MMKD, TeachersPipelineOption, chosen, fetch_options, licence_of

if TYPE_CHECKING:
    from extract.fetching.disk import FetchPlan

app = typer.Typer()
log = logging.getLogger("extract")

T = TypeVar("T")


@app.command(epilog="Example: python -m extract fetch biomedclip plip --no-keep-source")
def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Teachers; all if left out.")] = None,
    *,
    pipeline: TeachersPipelineOption = MMKD,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    variant: Annotated[str | None, typer.Option(help="Fetch this variant instead.")] = None,
    keep_source: Annotated[
        bool, typer.Option(help="Keep the authors' weights after they were converted, or drop them.")
    ] = True,
) -> int:
    """Download the files that teachers lack and convert them to safetensors. Kill it at any moment and run it again.

    It prints beforehand what it fetches from where under which licence, and the room that it needs. What it fetches for
    the first time is recorded in teachers.lock beside the configuration; another content is refused from then on.
    """
    from extract.fetching.disk import require_room
    from extract.fetching.fetch import Fetch
    from extract.fetching.pins import LOCK_NAME, Pins

    entries = chosen(read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or []), names)
    if variant is not None:
        entries = {name: _variant(name, entry, variant) for name, entry in entries.items()}
    more = fetch_options(pipeline, config, variant)
    pins = Pins(config.parent / LOCK_NAME)
    todo = {
        name: Fetch(name=name, entry=entry, pins=pins, command=f"python -m extract fetch {name}{more}")
        for name, entry in entries.items()
    }
    failed: list[TeacherError] = []
    try:
        plans = {name: plan for name, one in todo.items() if (plan := _tried(failed, one.plan))}
        _print_fetches([*plans.values()], keep_source=keep_source)
        require_room([*plans.values()], keep_source=keep_source)
        for name, plan in plans.items():
            if _tried(failed, partial(todo[name].run, plan, keep_source=keep_source)) == 0:
                log.info("teacher %s: nothing to fetch", name)
    finally:
        for error in failed:
            sys.stderr.write(render_error(error))
    if failed:
        return ExitCode.BAD_INPUT
    say_next(f"python -m extract teachers {options_of(pipeline, config)}  # says which weights are here")
    return ExitCode.COMPLETE


def _tried(failed: list[TeacherError], work: Callable[[], T]) -> T | None:
    """Return what some work returns; keep its error, so that the other teachers are fetched all the same."""
    try:
        return work()
    except TeacherError as error:
        failed.append(error)
        return None


def _print_fetches(plans: list[FetchPlan], *, keep_source: bool) -> None:
    from extract.fetching.disk import needs

    plans = [plan for plan in plans if plan.missing or plan.source_bytes]
    if not plans:
        return
    table = Table("teacher", "files", "MB to fetch", "MB to convert", "licence", "from")
    for plan in plans:
        sizes = (f"{nbytes / 1e6:,.1f}" for nbytes in (plan.download_bytes, plan.source_bytes))
        origins = dict.fromkeys(one.file.item.origin for one in plan.missing)
        licence = Text(licence_of(plan.entry))
        table.add_row(plan.name, str(len(plan.missing)), *sizes, licence, Text(", ".join(origins)))
    console = wide_console()
    console.print(table)
    for need in needs(plans, keep_source=keep_source):
        least = "at least " if need.is_least else ""
        console.print(
            Text(
                f"{need.folder}: needs {least}{need.peak / 1e6:,.1f} MB, of which {need.stays / 1e6:,.1f} MB stay; "
                f"{need.free / 1e6:,.1f} MB are free"
            ),
            soft_wrap=True,
        )


def _variant(name: str, entry: TeacherEntry, variant: str) -> TeacherEntry:
    readings = entry.readings()
    if variant not in readings:
        raise ConfigError(f"--variant: teacher {name} has no variant {variant!r}{it_has(variant, readings)}")
    return readings[variant]
