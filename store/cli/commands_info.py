"""``python -m store info``, ``ls``, ``row``: a store, its teachers, and one pair in a few lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from store.corpus.read_ahead import ReadAhead
from store.errors import StoreError, printable
from store.export.images import image_requests
from store.inspect.summary import Hole, describe_row, summarize, summarize_teachers
from store.read.reader import FeatureStore

from .options import AllowOption, CorpusRootOption, JsonOption, StoreArgument, print_json, wide_console

app = typer.Typer()

SHOWN = 20
"""Holes of a teacher that are printed as text; JSON has all."""


@app.command(epilog="Example: python -m store info runs/demo/store")
def info(store: StoreArgument, *, as_json: JsonOption = False) -> None:
    """Show rows, ranges, teachers with width, dtype and spec, rows ok, bad and missing, and bytes on disk."""
    summary = summarize(FeatureStore(store))
    if as_json:
        print_json(summary.as_json())
        return
    console = Console()
    console.print(Text(f"store          {summary.path} (format version {summary.version})"))
    console.print(f"rows           {summary.rows:,} in {summary.ranges:,} ranges of {summary.range_rows:,}")
    console.print(f"feature pairs  {summary.feature_pairs:,}")
    console.print(f"on disk        {summary.bytes_on_disk / 1e6:,.1f} MB")
    console.print(Text(f"corpus         {summary.corpus_root}"))
    console.print(f"complete       {'yes' if summary.complete else 'no'}")
    table = Table("teacher", "width", "dtype", "spec", "ranges", "ok", "bad", "not applicable", "missing")
    for name, teacher in summary.teachers.items():
        counts = (teacher.rows_ok, teacher.rows_bad, teacher.rows_not_applicable, teacher.rows_missing)
        table.add_row(
            name,
            str(teacher.width),
            teacher.dtype,
            teacher.spec_hash[:8],
            f"{teacher.ranges_done}/{summary.ranges}",
            *(f"{count:,}" for count in counts),
        )
    console.print(table)


@app.command("ls", epilog="Example: python -m store ls runs/demo/store")
def list_(store: StoreArgument, *, as_json: JsonOption = False) -> None:
    """Show the teachers: spec, width, dtype, ranges done, and the rows that are not committed."""
    opened = FeatureStore(store)
    teachers, ranges = summarize_teachers(opened), opened.info.ranges
    if as_json:
        names = ("teacher", "spec_hash", "sides", "width", "dtype", "ranges_done", "ranges", "rows_missing", "holes")
        rows = ({"teacher": teacher, "ranges": ranges} | asdict(found) for teacher, found in teachers.items())
        print_json([{name: row[name] for name in names} for row in rows])
        return
    table = Table("teacher", "spec", "sides", "width", "dtype", "ranges", "rows missing")
    for name, teacher in teachers.items():
        done = f"{teacher.ranges_done:,}/{ranges:,}"
        shape = (", ".join(teacher.sides), str(teacher.width), teacher.dtype)
        table.add_row(name, teacher.spec_hash[:8], *shape, done, f"{teacher.rows_missing:,}")
    wide_console().print(table if teachers else "no teacher was ever registered")
    for name, teacher in teachers.items():
        _print_holes(name, teacher.holes)


@app.command(epilog="Example: python -m store row runs/demo/store 17")
def row(
    store: StoreArgument,
    row: Annotated[str, typer.Argument(help="A row number, or a key.")],
    *,
    as_json: JsonOption = False,
    key: Annotated[bool, typer.Option("--key", help="The argument is a key even if it is all digits.")] = False,
    image: Annotated[Path | None, typer.Option(help="Write the pair's image file here.")] = None,
    corpus_root: CorpusRootOption = None,
    allow: AllowOption = None,
) -> None:
    """Show one pair: caption, modality, source, and per teacher status, norms and similarity."""
    opened = FeatureStore(store, corpus_root=corpus_root, allow=allow or [])
    number = int(row) if row.isdecimal() and not key else opened.pairs.row_of(row)
    if number >= opened.info.rows:
        raise StoreError(f"{store}: row {number} is beyond the last row, {opened.info.rows - 1}")
    described = describe_row(opened, number)
    if image:
        with ReadAhead(opened.images, connections=1) as ahead:
            image.write_bytes(image_requests(opened, ahead, first_row=number)([described])[0]())
    if as_json:
        print_json(described)
        return
    console = Console()
    for name, value in described.items():
        if name != "teachers":
            console.print(Text(f"{name:13} {printable(str(value))}"))
    table = Table("teacher", "status", "image norm", "text norm", "similarity", "reason")
    for name, entry in described["teachers"].items():
        values = (entry[field] for field in ("image_norm", "text_norm", "similarity"))
        numbers = ("-" if value is None else f"{value:.4f}" for value in values)
        table.add_row(name, entry["status"], *numbers, Text(printable(entry["reason"] or "")))
    console.print(table)


def _print_holes(teacher: str, holes: Sequence[Hole]) -> None:
    if holes:
        more = f", ... and {len(holes) - SHOWN:,} more; --json has all" if len(holes) > SHOWN else ""
        sys.stdout.write(f"{teacher} lacks {', '.join(map(str, holes[:SHOWN]))}{more}\n")
