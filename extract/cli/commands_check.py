"""``python -m extract retry``, ``drift``, ``report``: mark bad rows, compare features, report the use of time."""

from __future__ import annotations

import logging
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from store.cli.options import (
    PIPELINES_FILE,
    ConfigOption,
    JsonOption,
    PipelineOption,
    SeedOption,
    SetOption,
    print_json,
    wide_console,
)
from store.console import ExitCode, say
from store.errors import ConfigError
from store.format.records import Status
from store.io.location import locate

from .commands_run import OfPipelineOption, PlaceOption, RootOption, StoreArgument, loaded_pipeline, store_of
from .commands_teachers import chosen

if TYPE_CHECKING:
    from extract.monitor.drift import TeacherDrift
    from store.inspect.stage_report import StageReport

app = typer.Typer()
log = logging.getLogger("extract")

TeachersOption = Annotated[list[str] | None, typer.Option("--teacher", help="Only this teacher; may be repeated.")]


@app.command(epilog="Example: python -m extract retry runs/mmkd/store --status killer_row,bad_image")
def retry(
    store: StoreArgument = None,
    *,
    pipeline: OfPipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    status: Annotated[str | None, typer.Option(help="Statuses, e.g. bad_image,bad_text; or all.")] = None,
    teacher: TeachersOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the units, mark none.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Remove all marks instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Mark units with bad rows, so that the next run does them again; until then they stay as they are.

    Without --status: rows that killed a worker and features that were not finite, because another try may succeed.
    """
    from store.check.quarantine import TRANSIENT, find_retries, mark, unmark
    from store.read.reader import FeatureStore

    place = locate(store_of(store, config, pipeline))
    opened = FeatureStore(place)
    if undo:
        log.info("%s: %d marks taken back", place, unmark(place))
        return
    statuses = TRANSIENT if status is None else _statuses(status)
    units = find_retries(opened, statuses=statuses, teachers=teacher)
    if units and not dry_run:
        mark(place, units)
    if as_json:
        rows = [
            {"row": row.row, "status": row.status.name.lower(), "reason": row.reason} for u in units for row in u.rows
        ]
        named = [{"teacher": unit.teacher, "range": unit.range, "bad_rows": len(unit.rows)} for unit in units]
        print_json({"units": named, "rows": rows, "marked": bool(units) and not dry_run})
    names = ", ".join(status.name.lower() for status in statuses)
    if not units:
        log.info("%s: no row has status %s: nothing to do", place, names)
        return
    bad = sum(len(unit.rows) for unit in units)
    verb = "would be" if dry_run else "are"
    log.info("%s: %d units with %d rows of status %s %s marked", place, len(units), bad, names, verb)
    if not dry_run:
        log.info("python -m extract run does them again; until then they stay as they are")


def _statuses(text: str) -> tuple[Status, ...]:
    bad = {status.name.lower(): status for status in Status if status.name not in ("MISSING", "OK", "NOT_APPLICABLE")}
    if text == "all":
        return tuple(bad.values())
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in bad]
    if unknown:
        raise ConfigError(f"--status: {', '.join(map(repr, unknown))}: expected all, or some of {', '.join(bad)}")
    return tuple(bad[name] for name in dict.fromkeys(names))


@app.command(epilog="Example: python -m extract drift --pipeline mmkd --rows 256 --seed 1")
def drift(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    store: PlaceOption = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to extract again.")] = 256,
    teacher: TeachersOption = None,
    seed: SeedOption = 0,
    min_cosine: Annotated[float | None, typer.Option(help="Replaces the default, which depends on the dtype.")] = None,
    corpus_root: RootOption = None,
    as_json: JsonOption = False,
) -> int:
    """Extract some rows again and compare them with the store; exit with 1 if a row differs."""
    from extract.monitor.drift import drift as measure
    from store.read.reader import FeatureStore

    loaded = loaded_pipeline(config, pipeline, set_, store)
    opened = FeatureStore(loaded.store.path, corpus_root=corpus_root, allow=loaded.readable())
    names = list(chosen(loaded, teacher)) if teacher else [name for name in loaded.teachers if name in opened.teachers]
    root = str(corpus_root or opened.info.corpus_root)
    found = measure(opened, loaded, teachers=names, rows=rows, seed=seed, root=root, min_cosine=min_cosine)
    if as_json:
        print_json([teacher.as_json() for teacher in found])
    else:
        _print_drift(found)
    failed = [entry.teacher for entry in found if not entry.passed]
    if failed:
        log.error("%s: not what is stored: %s", opened.location, ", ".join(failed))
    return ExitCode.BAD_INPUT if failed else ExitCode.COMPLETE


def _print_drift(found: list[TeacherDrift]) -> None:
    table = Table("teacher", "side", "rows", "cosine min", "p1", "median", "max |difference|", "worst row", "")
    for entry in found:
        for name, side in entry.sides.items():
            verdict = f"{len(side.below)} rows below {entry.threshold}" if side.below else "agrees"
            cosines = (f"{value:.6f}" for value in (side.min_cosine, side.p1_cosine, side.median_cosine))
            difference = f"{side.max_abs_difference:.2e}"
            table.add_row(entry.teacher, name, f"{entry.rows:,}", *cosines, difference, str(side.worst_row), verdict)
    wide_console().print(table)
    for entry in found:
        for rows, what in (
            (entry.lost, "are ok in the store and bad now"),
            (entry.gained, "are bad in the store and ok now: python -m extract retry --status all"),
        ):
            if rows:
                first = ", ".join(map(str, rows[:10]))
                sys.stdout.write(
                    f"{entry.teacher}: {len(rows):,} rows {what} ({first}{', ...' if rows[10:] else ''})\n"
                )
        if not entry.sides:
            say(f"{entry.teacher}: none of the rows is ok both in the store and now")


@app.command(epilog="Example: python -m extract report runs/demo/store")
def report(
    store: StoreArgument = None,
    *,
    pipeline: OfPipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    run: Annotated[str | None, typer.Option("--run", help="Only the run of this id.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say from the receipts where the time of the extraction went, and what bounds it."""
    from store.inspect.stage_report import report as read_report
    from store.read.reader import FeatureStore

    found = read_report(FeatureStore(store_of(store, config, pipeline)), run_id=run)
    if as_json:
        print_json(found.as_json())
    else:
        _print_report(found)


def _print_report(found: StageReport) -> None:
    from extract.monitor.stage_picture import picture

    lines = [f"{found.units:,} units, {found.rows:,} rows of ranges, {len(found.runs)} runs", *picture(found)]
    if found.worker_s is None:
        lines.append("a run left no report (it was killed, or still runs): its waiting for work is not known")
    bounds = ", ".join(f"{name} {seconds / (found.total_s or 1.0):.0%}" for name, seconds in found.bound_s.items())
    lines += [f"bound by {found.verdict} ({bounds})", *textwrap.wrap(found.advice, 80)]
    say(*lines)
