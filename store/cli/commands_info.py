"""``python -m store info``, ``ls``, ``row``: a store, its teachers, and one pair in a few lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from store.console import say
from store.corpus.read_ahead import ReadAhead
from store.errors import StoreError, printable
from store.export.images import image_requests
from store.inspect.summary import Hole, describe_row, next_steps, summarize, summarize_teachers
from store.read.reader import FeatureStore

from .options import AllowOption, CorpusRootOption, JsonOption, StoreArgument, print_json
from .tables import print_next, print_teachers, terminal

app = typer.Typer()

SHOWN = 20
"""Holes of a teacher that are printed as text; JSON has all."""


@app.command(epilog="Example: python -m store info runs/demo/store")
def info(store: StoreArgument, *, as_json: JsonOption = False) -> None:
    """Show what a store is, whether it is whole, when it was made, its licences, and how it is read."""
    summary = summarize(FeatureStore(store))
    if as_json:
        print_json(summary.as_json())
        return
    console = terminal()
    made = f"{_minute(summary.first)} to {_minute(summary.last)}, {summary.runs:,} runs" if summary.first else "never"
    for heading, text in (
        ("store", f"{summary.path} (format version {summary.version})"),
        ("holds", f"{summary.rows:,} pairs in {summary.ranges:,} ranges of {summary.range_rows:,}"),
        ("", f"{summary.feature_pairs:,} feature pairs of {len(summary.teachers)} teachers"),
        ("on disk", f"{summary.bytes_on_disk / 1e6:,.1f} MB"),
        ("whole", ("yes" if summary.complete else "no") + (f": {summary.lacks}" if summary.lacks else "")),
        ("made", made),
        ("corpus", summary.corpus_root),
        ("pairs under", ", ".join(f"{licence} ({count:,})" for licence, count in summary.licences.items())),
    ):
        console.print(Text(f"{heading:12} {printable(text)}"))
    print_teachers(
        summary.teachers,
        lambda teacher: {
            "missing": f"{teacher.rows_missing:,}",
            "bad": f"{teacher.rows_bad:,}",
            "ok": f"{teacher.rows_ok:,}",
            "not applicable": f"{teacher.rows_not_applicable:,}",
            "ranges": f"{teacher.ranges_done:,}/{summary.ranges:,}",
            "sides": " and ".join(teacher.sides),
            "width": teacher.width,
            "dtype": teacher.dtype,
            "spec": teacher.spec_hash[:8],
            "licence": teacher.licence or "not given",
        },
    )
    for name in list(summary.teachers)[:1]:
        sys.stdout.write(
            "\nread it in Python:\n  from store import FeatureStore\n"
            f"  store = FeatureStore({summary.path!r})\n"
            f"  image_ND = store.read(slice(0, 256), teacher={name!r}, side='image')\n"
        )
    print_next(summary.steps)


def _minute(moment: str | None) -> str:
    return (moment or "")[:16].replace("T", " ")


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
    if not teachers:
        say("no teacher was ever registered", "next: python -m extract run --pipeline NAME")
    print_teachers(
        teachers,
        lambda teacher: {
            "missing": f"{teacher.rows_missing:,}",
            "ranges": f"{teacher.ranges_done:,}/{ranges:,}",
            "sides": " and ".join(teacher.sides),
            "width": teacher.width,
            "dtype": teacher.dtype,
            "spec": teacher.spec_hash[:8],
        },
    )
    for name, teacher in teachers.items():
        _print_holes(name, teacher.holes)
    missing, bad = (sum(getattr(one, name) for one in teachers.values()) for name in ("rows_missing", "rows_bad"))
    print_next(next_steps(str(opened.location), missing=missing, bad=bad))


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
    console = terminal()
    for name, value in described.items():
        if name != "teachers":
            console.print(Text(f"{name:13} {printable(str(value))}"))
    print_teachers(
        described["teachers"],
        lambda entry: {
            "status": entry["status"],
            "reason": entry["reason"] or "-",
            **{
                name.replace("_", " "): "-" if entry[name] is None else f"{entry[name]:.4f}"
                for name in ("image_norm", "text_norm", "similarity")
            },
        },
    )


def _print_holes(teacher: str, holes: Sequence[Hole]) -> None:
    if holes:
        more = f", ... and {len(holes) - SHOWN:,} more; --json has all" if len(holes) > SHOWN else ""
        say(f"{teacher} lacks {', '.join(map(str, holes[:SHOWN]))}{more}")
