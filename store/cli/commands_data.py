"""``python -m store quarantine``, ``diff``, ``export``: list bad rows, compare two stores, write other files."""

from __future__ import annotations

import csv
import logging
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from store.check.quarantine import TRANSIENT, QuarantinedRow, count_reasons, quarantined
from store.console import ExitCode, cell, progress, say
from store.export.formats import ExportFormat
from store.export.formats import export as write_export
from store.format.records import Status
from store.inspect.diff import Difference, PairsDifference, RangeDifference, TeacherDifference
from store.inspect.diff import diff as compare
from store.read.reader import FeatureStore

from .options import AllowOption, CorpusRootOption, JsonOption, StoreArgument, TeacherOption, print_json
from .tables import print_next

app = typer.Typer()

log = logging.getLogger(__name__)

SHOWN = 20
"""Rows that are printed as text; JSON and CSV have all."""


@app.command(epilog="Example: python -m store quarantine runs/demo/store --csv bad.csv")
def quarantine(
    store: StoreArgument,
    *,
    teacher: TeacherOption = None,
    as_json: JsonOption = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows to this file.")] = None,
) -> None:
    """Show the rows that have no feature, and why."""
    rows = list(quarantined(FeatureStore(store), teacher=teacher))
    counts = count_reasons(rows)
    if csv_file:
        with csv_file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(QuarantinedRow)])
            writer.writeheader()
            writer.writerows({name: cell(value) for name, value in asdict(row).items()} for row in rows)
    if as_json:
        print_json({"rows": [asdict(row) for row in rows], "counts": counts})
        return
    if not rows:
        say("no row is quarantined")
        return
    for count in counts[:SHOWN]:
        said = f"{count['rows']:,} rows of {count['teacher']}: {count['status']}: {count['reason']}"
        say(said)
    for row in rows[:SHOWN]:
        line = f"{row.row} {row.key} {row.teacher} {row.status}: {row.reason} ({row.uri or 'no image'})"
        say(line)
    if len(rows) > SHOWN:
        say(f"... and {len(rows) - SHOWN:,} more; --json or --csv FILE has all")
    if any(Status[row.status.upper()] in TRANSIENT for row in rows):
        print_next([f"python -m extract retry {shlex.quote(store)}  # tries rows again that a device or memory failed"])


@app.command(epilog="Example: python -m store diff runs/demo/store s3://bucket/store")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A store's folder or URL.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another store's folder or URL.")],
    *,
    as_json: JsonOption = False,
) -> int:
    """Compare two stores; exit with 1 if their pairs or features differ."""
    left, right = FeatureStore(a), FeatureStore(b)
    shared = len({*left.teachers} & {*right.teachers})
    with progress(shared, label="diff", noun="teachers") as advance:
        found = compare(left, right, advance=advance)
    if as_json:
        print_json(found.as_json())
    else:
        _print_difference(found)
    return ExitCode.COMPLETE if found.equal else ExitCode.BAD_INPUT


@app.command(epilog="Example: python -m store export runs/demo/store --out features --format parquet")
def export(
    store: StoreArgument,
    *,
    out: Annotated[Path, typer.Option(help="A new folder.")],
    file_format: Annotated[ExportFormat, typer.Option("--format", help="Format of the files.")],
    teacher: Annotated[list[str] | None, typer.Option(help="Only this teacher; may be given several times.")] = None,
    rows: Annotated[str, typer.Option(metavar="A:B", help="Only rows A to B - 1; either may be left out.")] = ":",
    public: Annotated[
        bool, typer.Option("--public", help="Leave out keys, captions, paths, sources and digests of images.")
    ] = False,
    corpus_root: CorpusRootOption = None,
    allow: AllowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write pairs and features to files that other programs can read."""
    match = re.fullmatch(r"(\d*):(\d*)", rows)
    if match is None:
        raise typer.BadParameter(f"--rows: expected A:B, got {rows!r}")
    first, last = (int(text) if text else None for text in match.groups())
    opened = FeatureStore(store, corpus_root=corpus_root, allow=allow or [])
    total = (opened.info.rows if last is None else last) - (first or 0)
    with progress(total, label="export", noun="rows") as advance:
        done = write_export(
            opened,
            out=out,
            file_format=file_format,
            teachers=teacher,
            rows=(first, last),
            public=public,
            advance=advance,
        )
    for row in done.skipped[:SHOWN]:
        log.warning("row %d, %s: left out: %s", row.row, row.key, row.reason)
    if done.skipped:
        message = "%d rows were left out because their images cannot be read; export.json names all"
        log.warning(message, len(done.skipped))
    if as_json:
        print_json(asdict(done))
    else:
        names = ", ".join(done.teachers) or "no teacher"
        say(f"{out}: {done.written:,} rows with {names} in {len(done.files)} files ({file_format})")


def _print_difference(found: Difference) -> None:
    say(f"A  {found.a}", f"B  {found.b}")
    for name, (ours, theirs) in found.shape.items():
        if ours != theirs:
            say(f"{name}: {ours:,} in A, {theirs:,} in B")
    _print_pairs(found.pairs)
    for store, names in (("A", found.teachers_only_in_a), ("B", found.teachers_only_in_b)):
        if names:
            say(f"teachers only in {store}: {', '.join(names)}")
    for name, teacher in found.teachers.items():
        _print_teacher(name, teacher)
    say("equal" if found.equal else "different")


def _print_pairs(pairs: PairsDifference) -> None:
    say(f"pairs: {pairs.ranges_equal:,} ranges equal, {len(pairs.ranges_different):,} different")
    for column, count in pairs.columns.items():
        say(f"  {column} differs in {count:,} rows")
    for store, keys in (("A", pairs.keys_only_in_a), ("B", pairs.keys_only_in_b)):
        if keys.count:
            more = ", ..." if keys.count > len(keys.first) else ""
            say(f"  keys only in {store}: {keys.count:,} ({', '.join(keys.first)}{more})")


def _print_teacher(name: str, teacher: TeacherDifference) -> None:
    say(f"{name}: {teacher.ranges_equal:,} ranges equal, {len(teacher.different):,} different")
    for line in teacher.spec:
        say(f"  spec: {line}")
    for store, count in (("A", teacher.rows_only_in_a), ("B", teacher.rows_only_in_b)):
        if count:
            say(f"  rows committed only in {store}: {count:,}")
    for different in teacher.different[:SHOWN]:
        say(f"  {_range_line(different)}")
    if len(teacher.different) > SHOWN:
        say(f"  ... and {len(teacher.different) - SHOWN:,} more; --json has all")


def _range_line(different: RangeDifference) -> str:
    parts = [f"status differs in {different.status:,} rows"] if different.status else []
    for name, value in different.max_abs.items():
        cosine = different.min_cosine.get(name)
        parts.append(
            f"{name} by at most {value:.3g}" + (f" (cosine at least {cosine:.6f})" if cosine is not None else "")
        )
    first, last = different.rows
    return f"range {different.range}, rows {first} to {last - 1}: {', '.join(parts)}"
