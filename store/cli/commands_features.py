"""``python -m store stats``, ``neighbors``, ``agreement``: statistics of a store's features, and nearest rows."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from store.config.pipeline_file import read_pipeline
from store.console import cell, progress, say
from store.errors import StoreError, shortened
from store.format.records import Side
from store.inspect.agreement import Agreement, compared, steps
from store.inspect.agreement import agreement as compare
from store.inspect.feature_statistics import PERCENTS, SideStatistics, TeacherStatistics, teacher_statistics
from store.inspect.neighbors import nearest
from store.inspect.neighbors import neighbors as nearest_to_row
from store.read.reader import FeatureStore

from .options import (
    PIPELINES_FILE,
    ConfigOption,
    JsonOption,
    SampleOption,
    SeedOption,
    StoreArgument,
    TeacherOption,
    print_json,
)
from .tables import print_table, print_teachers

app = typer.Typer()

SAMPLE = 16_384
"""Rows whose features are read by default; 0.3 GB for nine teachers."""

SideOption = Annotated[Side, typer.Option("--side", help="Side whose features are read.")]


@app.command(epilog="Example: python -m store stats runs/demo/store --teacher tiny_ct")
def stats(
    store: StoreArgument,
    *,
    teacher: TeacherOption = None,
    sample: SampleOption = SAMPLE,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show norms, similarity, duplicates and signs of collapse of each teacher's features."""
    opened = FeatureStore(store)
    names = opened.teachers if teacher is None else [teacher]
    with progress(sum(len(opened.spec(name).sides) for name in names), label="stats", noun="sides") as advance:
        found = [teacher_statistics(opened, name, sample=sample, seed=seed, advance=advance) for name in names]
    if as_json:
        print_json({"sample": sample, "seed": seed, "teachers": [asdict(entry) for entry in found]})
    else:
        _print_similarity(found)
        _print_sides(found)
        for entry in (entry for entry in found if "text" in entry.sides):
            say(f"{entry.teacher}: truncated captions: {_share(entry)}")


@app.command(epilog="Example: python -m store neighbors runs/demo/store 17 --teacher tiny_ct --side text")
def neighbors(
    store: StoreArgument,
    row: Annotated[int | None, typer.Argument(metavar="N", min=0, help="A row number.")] = None,
    *,
    teacher: Annotated[str, typer.Option(help="Teacher whose features are compared.")],
    side: SideOption = "image",
    count: Annotated[int, typer.Option("-k", min=1, help="Number of rows.")] = 10,
    text: Annotated[str | None, typer.Option(help="Look for this caption, instead of a row.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for the image in this file, instead of a row.")] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", help="Pipeline with the teacher, for --text and --image.")
    ] = None,
    config: ConfigOption = PIPELINES_FILE,
    as_json: JsonOption = False,
) -> None:
    """Show the rows whose features are nearest to those of a row, a text or an image file, with their captions."""
    if (row is not None) + (text is not None) + (image is not None) != 1:
        raise typer.BadParameter("give one of: a row number, --text, --image")
    opened = FeatureStore(store)
    query: dict[str, Any] = {"teacher": teacher, "side": side}
    if row is not None:
        if row >= opened.info.rows:
            raise StoreError(f"{store}: row {row} is beyond the last row, {opened.info.rows - 1}")
        query |= {"row": row, **opened.pairs.read(row, row + 1, ["key", "modality", "caption"]).to_pylist()[0]}
        search = partial(nearest_to_row, opened, row)
    else:
        if pipeline is None:
            raise typer.BadParameter("--text and --image need --pipeline NAME, which has the teacher's files")
        asked = text if text is not None else image
        query |= {"text": text} if text is not None else {"image": str(image)}
        search = partial(nearest, opened, _encoded(opened, teacher, asked or "", pipeline=pipeline, config=config))
    with progress(opened.info.rows, label="neighbors", noun="rows") as advance:
        found = search(teacher=teacher, side=side, count=count, advance=advance)
    if as_json:
        print_json({"query": query, "neighbors": [asdict(neighbor) for neighbor in found]})
        return
    caption = query.get("text", query.get("caption"))
    first = (query.get("row", "-"), "-", query.get("key", query.get("image")), query.get("modality"), caption)
    print_table(
        ["row", "cosine", "key", "modality", "caption"],
        [
            [*first[:2], *(shortened(one or "-") for one in first[2:])],
            *((n.row, f"{n.cosine:.4f}", n.key, n.modality or "-", shortened(n.caption or "-")) for n in found),
        ],
    )


def _encoded(
    store: FeatureStore, teacher: str, query: str | Path, *, pipeline: str, config: Path
) -> npt.NDArray[np.float32]:
    # The one place at which the store calls a teacher; pyproject.toml allows it by name.
    from extract.config import ExtractPipeline
    from extract.teachers.stored import encode_query

    return encode_query(store, read_pipeline(config, pipeline, ExtractPipeline), teacher, query)


@app.command(epilog="Example: python -m store agreement runs/demo/store --csv agreement.csv")
def agreement(
    store: StoreArgument,
    *,
    side: SideOption = "image",
    sample: SampleOption = SAMPLE,
    seed: SeedOption = 0,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a line per two teachers to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how similar each two teachers' features of the same rows are: linear CKA on a sample."""
    opened = FeatureStore(store)
    with progress(steps(len(compared(opened, side))), label="agreement", noun="steps") as advance:
        found = compare(opened, side=side, sample=sample, seed=seed, advance=advance)
    if csv_file:
        _write_csv(found, csv_file)
    if as_json:
        print_json(asdict(found))
        return
    sys.stdout.write(
        f"linear CKA of {found.side} features, {found.sample:,} of {found.of_rows:,} rows, seed {found.seed}\n"
    )
    # Numbers instead of names, so that nine teachers fit into 80 columns.
    rows = [
        (f"{number} {teacher}", *("-" if value is None else f"{value:.3f}" for value in values))
        for number, (teacher, values) in enumerate(zip(found.teachers, found.cka, strict=True), 1)
    ]
    print_table(["teacher", *(str(number) for number in range(1, len(rows) + 1))], rows)


def _print_similarity(found: list[TeacherStatistics]) -> None:
    rows = [
        (
            entry.teacher,
            f"{entry.rows_ok:,}",
            f"{entry.sample:,}",
            _number(entry.similarity_mean),
            *(_number(entry.similarity_quantiles.get(str(percent))) for percent in PERCENTS),
        )
        for entry in found
    ]
    print_table(["teacher", "rows ok", "sample", "similarity", *(f"{percent} %" for percent in PERCENTS)], rows)


def _print_sides(found: list[TeacherStatistics]) -> None:
    for side in ("image", "text"):
        sides: dict[str, tuple[TeacherStatistics, SideStatistics]] = {
            entry.teacher: (entry, numbers) for entry in found if (numbers := getattr(entry, side)) is not None
        }
        if sides:
            say(f"{side} features")
        print_teachers(
            sides,
            lambda one: {
                "width": one[0].width,
                "norm": _number(one[1].norm_mean),
                "lowest": _number(one[1].norm_min),
                "highest": _number(one[1].norm_max),
                "duplicates": f"{one[1].duplicates:,}",
                "shared by inputs": "-" if one[1].shared_by_inputs is None else f"{one[1].shared_by_inputs:,}",
                "constant dimensions": one[1].constant_dimensions,
                "effective rank": f"{one[1].effective_rank:.1f}",
                "mean cosine": _number(one[1].mean_cosine),
            },
        )


def _write_csv(found: Agreement, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["teacher", "other", "side", "rows", "cka"])
        for line, (teacher, values) in enumerate(zip(found.teachers, found.cka, strict=True)):
            for column, (other, value) in enumerate(zip(found.teachers, values, strict=True)):
                writer.writerow(
                    [cell(teacher), cell(other), found.side, found.rows[line][column], "" if value is None else value]
                )


def _share(entry: TeacherStatistics) -> str:
    if entry.truncated_captions is None:
        return "not recorded"
    part = f" ({entry.truncated_captions / entry.truncated_of:.1%})" if entry.truncated_of else ""
    missing = entry.rows_ok - entry.truncated_of
    rest = f"; not recorded of {missing:,}" if missing > 0 else ""
    return f"{entry.truncated_captions:,} of {entry.truncated_of:,}{part}{rest}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
