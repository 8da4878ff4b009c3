"""``python -m store coverage``, ``select``, ``provenance``: counts and origins, without reading a feature."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import RootModel

from store.config.pipeline_file import read_pipeline
from store.console import say
from store.inspect.coverage import coverage, kept, tally
from store.inspect.provenance import architecture_in_short, in_short
from store.inspect.provenance import provenance as find_provenance
from store.inspect.summary import next_steps
from store.pipeline import Pipeline
from store.read.reader import FeatureStore
from store.read.selection import Selection

from .options import PIPELINES_FILE, ConfigOption, JsonOption, StoreArgument, print_json
from .tables import print_next, print_table, print_teachers

app = typer.Typer()

SHOWN = 20
"""Runs that are printed as text; JSON has all."""

SAID = {
    "missing": "missing",
    "bad": "bad",
    "not_applicable": "not applicable",
    "ok": "ok",
    "selected": "that may teach",
}
"""Names of the counts in the headings."""

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
    opened = FeatureStore(store)
    found = coverage(tally(opened, _selection(pipeline, config, select)))
    if as_json:
        print_json(
            {teacher: {name: asdict(counts) for name, counts in rows.items()} for teacher, rows in found.items()}
        )
        return
    for field in ("missing", "bad", "not_applicable", "ok", "selected"):
        counts = {name: {one: getattr(of, field) for one, of in rows.items()} for name, rows in found.items()}
        if field in ("ok", "selected") or any(map(any, (of.values() for of in counts.values()))):
            say("", f"rows {SAID[field]}, by teacher and modality")
            _print_counts(counts)
    cells = [one for of in found.values() for one in of.values()]
    missing, bad = sum(one.missing for one in cells), sum(one.bad for one in cells)
    print_next(next_steps(str(opened.location), missing=missing or not found, bad=bad))


def _print_counts(counts: dict[str, dict[str, int]]) -> None:
    modalities = list(next(iter(counts.values()), {}))
    rows = [(name, f"{sum(of.values()):,}", *(f"{of[one]:,}" for one in modalities)) for name, of in counts.items()]
    print_table(["teacher", "all", *modalities], rows)


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
    say(f"feature pairs  {found.feature_pairs:,} of {found.of_feature_pairs:,} that are ok{share}")
    _print_counts(found.teachers)
    rows = [(teachers, f"{count:,}") for teachers, count in enumerate(found.rows_by_teachers)]
    print_table(["teachers of a row", "rows"], rows)


@app.command(epilog="Example: python -m store provenance runs/demo/store")
def provenance(store: StoreArgument, *, as_json: JsonOption = False) -> None:
    """Show the origin of the features: every spec, and the versions, devices and runs of the receipts."""
    found = find_provenance(FeatureStore(store))
    if as_json:
        print_json(found.as_json())
        return
    print_teachers(
        found.teachers,
        lambda entry: {
            "spec": entry.spec.hash[:8],
            "weights": entry.spec.weights_sha256[:8] if entry.spec.weights_sha256 else "not known",
            "architecture": architecture_in_short(entry.spec.architecture),
            "preprocessing": in_short(entry.spec.preprocessing) or "-",
            "tokenizer": in_short(entry.spec.tokenizer) or "-",
            "dtype": f"{entry.spec.compute_dtype}, stored {entry.spec.stored_dtype}",
            **{name: entry.spec.notes.get(name) or "not given" for name in ("source", "licence")},
        },
    )
    used: Counter[tuple[str, str]] = Counter()
    for entry in found.teachers.values():
        used.update({("device", device): units for device, units in entry.devices.items()})
        used.update({(p, version): units for p, counts in entry.versions.items() for version, units in counts.items()})
    print_table(
        ["made with", "version", "units"],
        [(name, version, f"{units:,}") for (name, version), units in sorted(used.items())],
    )
    print_table(
        ["run", "teachers", "units", "rows", "first unit", "last unit"],
        [
            (run.run_id, len(run.teachers), f"{run.units:,}", f"{run.rows:,}", run.first, run.last)
            for run in found.runs[-SHOWN:]
        ],
    )
    if len(found.runs) > SHOWN:
        say(f"... and {len(found.runs) - SHOWN:,} earlier runs; --json has all")


def _selection(pipeline: str | None, config: Path, file: Path | None) -> Selection:
    if pipeline and file:
        raise typer.BadParameter("--pipeline and --select exclude each other: each names a policy")
    if file:
        return read_pipeline(file, "select", _PolicyFile).root
    return read_pipeline(config, pipeline, Pipeline).select if pipeline else "all"
