"""``python -m store coverage``, ``select``, ``provenance``: counts and origins, without reading a feature."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import RootModel
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from store.config.pipeline_file import read_pipeline
from store.inspect.coverage import coverage, kept, tally
from store.inspect.provenance import architecture_in_short, in_short
from store.inspect.provenance import provenance as find_provenance
from store.pipeline import Pipeline
from store.read.reader import FeatureStore
from store.read.selection import Selection

from .options import PIPELINES_FILE, ConfigOption, JsonOption, StoreArgument, print_json, wide_console

app = typer.Typer()

SHOWN = 20
"""Runs that are printed as text; JSON has all."""

PolicyPipelineOption = Annotated[
    str | None, typer.Option("--pipeline", help="Apply the select: of this pipeline; all ok rows if left out.")
]
PolicyFileOption = Annotated[
    Path | None, typer.Option("--select", help="Apply the select: of this YAML file, which has no other key.")
]


class _PolicyFile(RootModel[Selection]):
    """The value of ``select`` in a file of its own."""


@app.command("coverage", epilog="Example: python -m store coverage runs/demo/store --pipeline demo")
def coverage_(
    store: StoreArgument,
    *,
    pipeline: PolicyPipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    select: PolicyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count rows by teacher and modality: ok, bad, missing, and selected by a policy."""
    found = coverage(tally(FeatureStore(store), _selection(pipeline, config, select)))
    if as_json:
        print_json(
            {teacher: {name: asdict(counts) for name, counts in rows.items()} for teacher, rows in found.items()}
        )
        return
    table = Table("teacher", "modality", "ok", "bad", "not applicable", "missing", "selected")
    for teacher, modalities in found.items():
        total: Counter[str] = Counter()
        for name, counts in modalities.items():
            total.update(asdict(counts))
            table.add_row(teacher, Text(name), *(f"{count:,}" for count in asdict(counts).values()))
        fields = ("ok", "bad", "not_applicable", "missing", "selected")
        table.add_row(teacher, "all", *(f"{total[field]:,}" for field in fields), style="bold", end_section=True)
    wide_console().print(table)


@app.command(epilog="Example: python -m store select runs/demo/store --pipeline demo")
def select(
    store: StoreArgument,
    *,
    pipeline: PolicyPipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    file: PolicyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply a policy, and count the feature pairs that it keeps, and the rows that each teacher may teach."""
    found = kept(tally(FeatureStore(store), _selection(pipeline, config, file)))
    if as_json:
        print_json(asdict(found))
        return
    share = f" ({found.feature_pairs / found.of_feature_pairs:.1%})" if found.of_feature_pairs else ""
    sys.stdout.write(f"feature pairs  {found.feature_pairs:,} of {found.of_feature_pairs:,} that are ok{share}\n")
    modalities = list(next(iter(found.teachers.values()), {}))
    table = Table("teacher", "rows", *map(escape, modalities))
    for teacher, counts in found.teachers.items():
        table.add_row(teacher, f"{sum(counts.values()):,}", *(f"{counts[name]:,}" for name in modalities))
    rows = Table("teachers of a row", "rows")
    for teachers, count in enumerate(found.rows_by_teachers):
        rows.add_row(str(teachers), f"{count:,}")
    console = wide_console()
    console.print(table)
    console.print(rows)


@app.command(epilog="Example: python -m store provenance runs/demo/store")
def provenance(store: StoreArgument, *, as_json: JsonOption = False) -> None:
    """Show the origin of the features: every spec, and the versions, devices and runs of the receipts."""
    found = find_provenance(FeatureStore(store))
    if as_json:
        teachers = {teacher: entry.as_json() for teacher, entry in found.teachers.items()}
        print_json({"teachers": teachers, "runs": [asdict(run) for run in found.runs]})
        return
    specs = Table(
        "teacher", "spec", "weights", "architecture", "preprocessing", "tokenizer", "dtype", "source", "licence"
    )
    for column in specs.columns:
        column.overflow = "fold"
    used: Counter[tuple[str, str]] = Counter()
    for teacher, entry in found.teachers.items():
        spec = entry.spec
        specs.add_row(
            teacher,
            spec.hash[:8],
            spec.weights_sha256[:8] if spec.weights_sha256 else "not known",
            Text(architecture_in_short(spec.architecture)),
            Text(in_short(spec.preprocessing)),
            Text(in_short(spec.tokenizer)),
            f"{spec.compute_dtype}, stored {spec.stored_dtype}",
            *(Text(str(spec.notes.get(name) or "not given")) for name in ("source", "licence")),
        )
        used.update({("device", device): units for device, units in entry.devices.items()})
        used.update({(p, version): units for p, counts in entry.versions.items() for version, units in counts.items()})
    versions = Table("made with", "version", "units")
    for (name, version), units in sorted(used.items()):
        versions.add_row(name, version, f"{units:,}")
    runs = Table("run", "teachers", "units", "rows", "first unit", "last unit")
    for run in found.runs[-SHOWN:]:
        runs.add_row(run.run_id, str(len(run.teachers)), f"{run.units:,}", f"{run.rows:,}", run.first, run.last)
    console = wide_console()
    for table in (specs, versions, runs):
        console.print(table)
    if len(found.runs) > SHOWN:
        sys.stdout.write(f"... and {len(found.runs) - SHOWN:,} earlier runs; --json has all\n")


def _selection(pipeline: str | None, config: Path, file: Path | None) -> Selection:
    if pipeline and file:
        raise typer.BadParameter("--pipeline and --select exclude each other: each names a policy")
    if file:
        return read_pipeline(file, "select", _PolicyFile).root
    return read_pipeline(config, pipeline, Pipeline).select if pipeline else "all"
