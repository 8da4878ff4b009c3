"""``python -m extract teachers``, ``golden``: list, measure and check teachers."""

from __future__ import annotations

import logging
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from extract.config import ExtractPipeline
from extract.teacher_files.entry import TeacherEntry
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, SetOption, print_json, wide_console
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.console import ExitCode, progress
from store.errors import ConfigError, MMKDError, WeightsNotFoundError

if TYPE_CHECKING:
    from extract.estimate.speed import Profile

app = typer.Typer()
log = logging.getLogger("extract")

MMKD = "mmkd"

PAPER_ROWS = 2_900_000
"""Number of pairs in the paper's corpus."""

TeachersPipelineOption = Annotated[str, typer.Option("--pipeline", help="The pipeline that has the teachers.")]


@app.command(epilog="Example: python -m extract teachers --profile --random-weights --rows 2900000")
def teachers(
    *,
    pipeline: TeachersPipelineOption = MMKD,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    as_json: JsonOption = False,
    profile: Annotated[bool, typer.Option("--profile", help="Measure speed and memory on this machine.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to estimate hours for.")] = PAPER_ROWS,
    teacher: Annotated[list[str] | None, typer.Option(help="Only these teachers.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Profile teachers without weights too, in full size.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a forward pass of the profile.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Least duration of each measurement.")] = 3.0,
) -> None:
    """List a pipeline's teachers: where their weights come from, and whether they are on this machine.

    With --profile: images and captions per second and memory of each, with all in memory, and hours for --rows.
    """
    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    entries = chosen(loaded, teacher)
    if profile:
        from extract.estimate.speed import profile as measure
        from extract.estimate.speed import settings_of

        settings = settings_of(
            loaded.extract, rows=rows, batch_size=batch_size, seconds=seconds, random_weights=random_weights
        )
        with progress(len(entries), label="profile", noun="teachers") as advance:
            found = measure(entries, settings, advance=advance)
        if as_json:
            print_json(asdict(found))
        else:
            _print_profile(found)
        return
    described = {name: describe(name, entry) for name, entry in entries.items()}
    if as_json:
        print_json(described)
    else:
        _print_teachers(described, entries)


def describe(name: str, entry: TeacherEntry) -> dict[str, Any]:
    """Return what is known about a teacher without loading it."""
    from extract.teacher_files.geometry import Preprocessing
    from extract.teacher_files.specs import teacher_spec
    from extract.teacher_files.weights import find_weights

    described: dict[str, Any] = {
        "family": entry.family,
        "embed_dim": entry.embed_dim,
        "folder": entry.folder,
        "source": entry.origin,
        "licence": entry.licence,
        "licence_read": str(entry.licence_read) if entry.licence_read else None,
        "files": [
            {"name": file.name, "from": file.item.origin, "present": file.path.is_file(), "optional": file.optional}
            for file in entry.wanted()
        ],
        "variants": list(entry.variants),
        "present": False,
        "nbytes": None,
        "spec_hash": None,
        "sides": None,
        "preprocessing": None,
        "problem": None,
    }
    try:
        described["nbytes"] = find_weights(name, entry).nbytes
        spec = teacher_spec(name, entry)
        described |= {"spec_hash": spec.hash, "embed_dim": spec.embed_dim, "sides": list(spec.sides)}
        described["preprocessing"] = str(Preprocessing.model_validate(spec.preprocessing))
        described["present"] = True
    except MMKDError as error:
        missing = isinstance(error, WeightsNotFoundError)
        described["problem"] = {"kind": "missing" if missing else "unusable", "reason": str(error)}
    return described


def _print_teachers(described: dict[str, dict[str, Any]], entries: dict[str, TeacherEntry]) -> None:
    console, table = Console(), Table("teacher", "family", "width", "state", "MB", "spec", "licence")
    for name, entry in described.items():
        state = "present" if entry["present"] else entry["problem"]["kind"]
        size = f"{entry['nbytes'] / 1e6:,.1f}" if entry["nbytes"] else ""
        cells = (name, entry["family"], str(entry["embed_dim"] or ""), state, size, (entry["spec_hash"] or "")[:8])
        table.add_row(*cells, Text(licence_of(entries[name])))
    for column in table.columns[:-1]:
        column.no_wrap = True
    console.print(table)
    for name, entry in described.items():
        console.print(Text(f"{name}: {entry['source'] or entry['folder']}"), soft_wrap=True)
        if entry["present"]:
            alone = "" if "text" in entry["sides"] else "images alone; "
            console.print(Text(f"  {alone}{entry['preprocessing']}"), soft_wrap=True)
        if entry["problem"]:
            console.print(Text(f"  {entry['problem']['reason']}"), soft_wrap=True)


def _print_profile(found: Profile) -> None:
    numbers = ("images/s", "captions/s", "CPU share", "parameters MB", "peak MB", "load s", "hours")
    console, table = wide_console(), Table("teacher", "weights", "precision", *numbers)
    for name, speed in found.teachers.items():
        sizes = (f"{nbytes / 1e6:,.0f}" for nbytes in (speed.parameter_bytes, speed.peak_bytes))
        pairs = (speed.images_per_s, speed.captions_per_s), (speed.load_s, speed.hours)
        first, last = (["" if number is None else f"{number:,.1f}" for number in pair] for pair in pairs)
        share = "" if speed.cpu_share is None else f"{speed.cpu_share:.0%}"
        table.add_row(name, speed.weights, speed.precision, *first, share, *sizes, *last)
    console.print(table)
    for line in (
        f"{found.device}, {found.threads} threads, batches of {found.batch_size}",
        f"all {len(found.teachers)} resident: parameters {found.parameter_bytes / 1e6:,.0f} MB, "
        f"held {found.resident_bytes / 1e6:,.0f} MB",
        f"decoding: {found.decoded_per_s:,.0f} images/s and thread, {found.decode_hours:,.1f} hours of one thread",
        f"{found.rows:,} rows by all of them, each image decoded once: {found.hours:,.1f} hours",
        *([] if found.hours_alone is None else [f"with these threads to itself about {found.hours_alone:,.1f} hours"]),
        *(f"{name}: not profiled: {reason}" for name, reason in found.not_profiled.items()),
    ):
        console.print(Text(line), soft_wrap=True)


def licence_of(entry: TeacherEntry) -> str:
    """Return a licence as its page states it, with the date on which the page was read."""
    read = f" (read {entry.licence_read})" if entry.licence_read else ""
    return f"{entry.licence or 'not stated'}{read}"


def chosen(pipeline: ExtractPipeline, names: list[str] | None) -> dict[str, TeacherEntry]:
    """Return a pipeline's teachers of some names; all if there is no name."""
    unknown = sorted(set(names or []) - set(pipeline.teachers))
    if unknown:
        raise ConfigError(
            f"no teacher {', '.join(unknown)} in the pipeline{it_has(unknown[0], pipeline.teachers)}",
            hint="--pipeline names another pipeline",
        )
    return {name: pipeline.teachers[name] for name in names or pipeline.teachers}


def fetch_options(pipeline: str, config: Path, variant: str | None = None) -> str:
    """Return the options of ``extract fetch`` for a pipeline, each after a space; usual values are left out."""
    options = [("--pipeline", pipeline, MMKD), ("--config", config, PIPELINES_FILE), ("--variant", variant, None)]
    return "".join(f" {key} {shlex.quote(str(value))}" for key, value, usual in options if value != usual)


@app.command(epilog="Example: python -m extract golden --against MMKDCLIP_DATA --teacher pmcclip")
def golden(
    *,
    against: Annotated[Path, typer.Option(help="The authors' released folder, with meta.jsonl and features/.")],
    teacher: Annotated[list[str] | None, typer.Option(help="Only these teachers.")] = None,
    pipeline: TeachersPipelineOption = MMKD,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare teachers with the features that MMKD-CLIP's authors released; exit with 1 if one does not agree.

    Where a teacher does not agree as configured, its variants and small changes of preprocessing are tried. The last
    line says what to put into pipelines.yaml.
    """
    from extract.teachers.golden import read_released
    from extract.teachers.readings import examine, summary

    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    released = read_released(against)
    options = fetch_options(pipeline, config)
    found, skipped = {}, {}
    for name, entry in chosen(loaded, teacher).items():
        if name not in released:
            skipped[name] = "the release holds no features of it"
            continue
        try:
            found[name] = examine(
                name,
                entry,
                released,
                device=loaded.extract.device,
                max_pixels=loaded.max_pixels,
                fetch_options=options,
            )
        except WeightsNotFoundError as error:
            if teacher:
                raise
            skipped[name] = str(error)
    for name, reason in skipped.items():
        log.warning("%s: not compared: %s", name, reason)
    if not found:
        raise WeightsNotFoundError(
            "no teacher could be compared",
            hint=f"python -m extract fetch{options} gets their weights; teachers lists them",
        )
    conclusions = {name: summary(name, verdicts) for name, verdicts in found.items()}
    if as_json:
        print_json(
            {
                name: {
                    "readings": [asdict(verdict) | {"band": verdict.band} for verdict in verdicts],
                    "conclusion": conclusions[name],
                }
                for name, verdicts in found.items()
            }
        )
    else:
        _print_verdicts(found)
        for lines in conclusions.values():
            for line in lines:
                Console().print(Text(line), soft_wrap=True)
    agree = all(verdicts[0].band == "agrees" for verdicts in found.values())
    return ExitCode.COMPLETE if agree else ExitCode.BAD_INPUT


def _print_verdicts(found: dict[str, Any]) -> None:
    table = Table("teacher", "reading", "pair", "image", "text", "")
    for name, verdicts in found.items():
        for verdict in verdicts:
            for key in verdict.image:
                table.add_row(name, verdict.reading, key[:8], f"{verdict.image[key]:.5f}", f"{verdict.text[key]:.5f}")
            worst = ["" if math.isnan(value) else f"{value:.5f}" for value in verdict.worst]
            note = f"{verdict.band}{': ' if verdict.note else ''}{verdict.note}"
            table.add_row(name, verdict.reading, "worst", *worst, Text(note))
    wide_console().print(table)
