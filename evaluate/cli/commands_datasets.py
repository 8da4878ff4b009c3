"""``python -m evaluate list``, ``new``, ``check``, ``prepare``, ``phantom-slides``: the datasets, and adding one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from evaluate.config import EvaluatePipeline
from evaluate.datasets.checks import deep_problems
from evaluate.datasets.entry import DatasetEntry, read_entry
from evaluate.datasets.formats.rules import FORMATS
from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.making.prepare import prepare
from evaluate.datasets.making.template import template
from evaluate.datasets.pipeline_sets import pipeline_sets
from evaluate.datasets.registry import Status, data_root, find_dataset, read_registry, status
from evaluate.datasets.task_kinds import TASKS
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, SeedOption, print_json, wide_console
from store.config.pipeline_file import read_pipeline
from store.config.problems import suggest
from store.console import ExitCode, say
from store.errors import ConfigError, EvaluationError, MMKDError
from store.files import write_atomic

app = typer.Typer()

DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the datasets' files; MMKD_DATA or data if left out.")
]
DatasetsOption = Annotated[
    list[Path] | None, typer.Option("--datasets", help="A folder or file with datasets of your own; may be repeated.")
]
PlaceOption = Annotated[
    str | None, typer.Option("--pipeline", help="Take evaluate.datasets and evaluate.data_root of this pipeline.")
]
AllowOption = Annotated[
    list[str] | None, typer.Option("--allow", help="Do not refuse shared_patients or empty_classes; may be repeated.")
]


@app.command("list", epilog="Example: python -m evaluate list --task vqa --data-root data")
def list_(
    *,
    data_root_: DataRootOption = None,
    datasets: DatasetsOption = None,
    pipeline: PlaceOption = None,
    config: ConfigOption = PIPELINES_FILE,
    task: Annotated[str | None, typer.Option(help="Only datasets for this task.")] = None,
    modality: Annotated[str | None, typer.Option(help="Only datasets of this modality.")] = None,
    present: Annotated[bool, typer.Option("--present", help="Only datasets whose files are present.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every dataset: tasks, modality, licence, and whether it is present or what to fetch."""
    loaded = read_maybe(pipeline, config)
    root = root_of(loaded, data_root_)
    chosen = _chosen(read_registry(folders_of(loaded, datasets)).values(), task, modality)
    found = [status(entry, root) for entry in chosen]
    found = [each for each in found if each.present or not present]
    if as_json:
        print_json([_listing(each, root) for each in found])
        return
    _print_list(found, root)


@app.command(epilog="Example: python -m evaluate new my_xrays --format table --out datasets")
def new(
    name: Annotated[str, typer.Argument(help="Name of the dataset: small letters, digits and _.")],
    *,
    format_: Annotated[str, typer.Option("--format", help=f"How its files are read: {', '.join(FORMATS)}.")] = "table",
    out: Annotated[Path, typer.Option(help="The folder for the file.")] = Path("datasets"),
) -> None:
    """Write a commented template of a dataset of your own, and check it."""
    if format_ not in FORMATS:
        expected = suggest(format_, FORMATS) or f"; expected one of {', '.join(FORMATS)}"
        raise ConfigError(f"--format: no format {format_!r}{expected}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise ConfigError(f"a dataset's name has small letters, digits and '_', not {name!r}")
    path = out / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path} is there already", hint=f"python -m evaluate check {path}")
    write_atomic(path, template(name, format_=format_, path=str(path)).encode())
    entry = read_entry(path)
    tasks = ", ".join(entry.tasks)
    sys.stdout.write(
        f"{path}: a valid dataset of format {format_} for {tasks}\n"
        f"next: change it, put the files below the data root, then python -m evaluate check {path}\n"
    )


@app.command(epilog="Example: python -m evaluate check datasets/my_xrays.yaml --data-root data")
def check(
    dataset: Annotated[str | None, typer.Argument(help="A dataset's file, or its name in the registry.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every dataset, with a line for each.")] = False,
    data_root_: DataRootOption = None,
    datasets: DatasetsOption = None,
    pipeline: PlaceOption = None,
    config: ConfigOption = PIPELINES_FILE,
    allow: AllowOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Compare digests of files, and decode every image.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read a dataset as an evaluation does: its splits, classes, duplicates and problems.

    With --all a dataset is ok, missing, or fails; if one fails, the exit code is 1.
    """
    if all_ == (dataset is not None):
        raise ConfigError("expected either the name of a dataset or --all")
    loaded_pipeline = read_maybe(pipeline, config)
    root = root_of(loaded_pipeline, data_root_)
    let = allowed(allow or [])
    if dataset is None:
        _check_all(known_datasets(loaded_pipeline, datasets), root, allow=let, deep=deep, as_json=as_json)
        return
    is_file = dataset.endswith((".yaml", ".yml")) or "/" in dataset
    entry = read_entry(Path(dataset)) if is_file else find_dataset(dataset, known_datasets(loaded_pipeline, datasets))
    loaded = load_dataset(entry, root, allow=let)
    refused = _refused(loaded)
    problems = list(deep_problems(loaded, root)) if deep else []
    found = _summary(loaded) | ({"problems": problems} if deep else {}) | ({"refused": refused} if refused else {})
    if as_json:
        print_json(found)
    else:
        _print_summary(entry, found)
    if refused:
        said = "\n".join(f"{entry.name}: {problem}" for problem in refused)
        raise EvaluationError(said, hint="an evaluation would skip these tasks for the same reasons")
    if problems:
        said = "\n".join(f"{entry.name}: {problem}" for problem in problems)
        raise EvaluationError(said, hint="fetch the files again")


def _check_all(entries: dict[str, DatasetEntry], root: Path, *, allow: list[str], deep: bool, as_json: bool) -> None:
    found = {name: _state(entry, root, allow=allow, deep=deep) for name, entry in sorted(entries.items())}
    if as_json:
        print_json([{"name": name, "state": state, "why": why} for name, (state, why) in found.items()])
    else:
        say(*(f"{name}: {state}: {why}" for name, (state, why) in found.items()))
    if any(state == "fails" for state, _ in found.values()):
        raise typer.Exit(ExitCode.BAD_INPUT)


def _state(entry: DatasetEntry, root: Path, *, allow: list[str], deep: bool) -> tuple[str, str]:
    """Return ok, missing or fails, and what there is, what is not there, or why, in one line."""
    missing = status(entry, root).missing
    if missing:
        return "missing", ", ".join(missing)
    try:
        loaded = load_dataset(entry, root, allow=allow)
        problems = [*_refused(loaded), *(deep_problems(loaded, root) if deep else ())]
    except MMKDError as error:
        problems = [str(error)]
    if problems:
        return "fails", " ".join("; ".join(problems).split())
    return "ok", "; ".join([*(f"{name} {len(split):,}" for name, split in loaded.splits.items()), *loaded.caveats])


def _refused(loaded: LoadedDataset) -> list[str]:
    from evaluate.suite.task_inputs import refusals  # it loads torch

    return list(refusals(loaded))


@app.command("prepare", epilog="Example: python -m evaluate prepare pcam downloads/pcam --data-root data")
def prepare_(
    dataset: Annotated[str, typer.Argument(help="Name of a dataset whose download has another layout.")],
    folder: Annotated[Path, typer.Argument(help="The folder of the unpacked download.")],
    *,
    data_root_: DataRootOption = None,
) -> None:
    """Make the table and folders that a dataset reads out of its download."""
    root = data_root(data_root_)
    count = prepare(find_dataset(dataset, read_registry()), folder, root)
    sys.stdout.write(
        f"{root / dataset}: {count:,} items\nnext: python -m evaluate check {dataset} --data-root {root}\n"
    )


@app.command("phantom-slides", epilog="Example: python -m evaluate phantom-slides --out data/phantom_slides")
def phantom_slides(
    *,
    out: Annotated[Path, typer.Option(help="The folder for the tars.")],
    train: Annotated[int, typer.Option(help="Slides for training.")] = 40,
    val: Annotated[int, typer.Option(help="Slides for validation.")] = 12,
    test: Annotated[int, typer.Option(help="Slides for testing.")] = 20,
    tiles: Annotated[int, typer.Option(help="Tiles of a slide.")] = 16,
    seed: SeedOption = 0,
) -> None:
    """Draw phantom slides: tiles of which a known share is tumour. They are drawn and no patient data."""
    from evaluate.datasets.making.phantom_slides import SlidePlan, write_phantom_slides

    plan = SlidePlan(slides={"train": train, "val": val, "test": test}, tiles=tiles, seed=seed)
    slides = write_phantom_slides(out, plan)
    tumors = [slide for slide in slides if slide.share]
    shares = f"{min(slide.share for slide in tumors):.0%} to {max(slide.share for slide in tumors):.0%}"
    sys.stdout.write(
        f"{out}: {len(slides)} slides of {tiles} tiles, {len(tumors)} of them with a tumour in {shares} of the tiles\n"
    )


def read_maybe(
    pipeline: str | None, config: Path, *, overrides: Sequence[str] | None = None
) -> EvaluatePipeline | None:
    """Return a pipeline, None if none is named."""
    return None if pipeline is None else read_pipeline(config, pipeline, EvaluatePipeline, overrides=overrides or [])


def folders_of(loaded: EvaluatePipeline | None, option: list[Path] | None) -> list[Path]:
    """Return the folders of the user's own datasets: those of the pipeline, then those of the option."""
    return [*map(Path, loaded.evaluate.datasets if loaded else []), *(option or [])]


def known_datasets(loaded: EvaluatePipeline | None, option: list[Path] | None) -> dict[str, DatasetEntry]:
    """Return every dataset by name: the registry, the user's own folders, and the sets of the pipeline itself."""
    return read_registry(folders_of(loaded, option)) | (pipeline_sets(loaded) if loaded else {})


def root_of(loaded: EvaluatePipeline | None, option: Path | None) -> Path:
    """Return the data root: that of the option, else of the pipeline, else the default."""
    stated = loaded.evaluate.data_root if loaded else None
    return data_root(option or (Path(stated) if stated else None))


def allowed(names: list[str]) -> list[str]:
    """Return the names of what is not refused; refuse names under which nothing is refused."""
    known = ("shared_patients", "empty_classes")
    for name in names:
        if name not in known:
            raise ConfigError(f"--allow: expected shared_patients or empty_classes, got {name!r}{suggest(name, known)}")
    return names


def _chosen(entries: Iterable[DatasetEntry], task: str | None, modality: str | None) -> list[DatasetEntry]:
    known = list(entries)
    modalities = sorted({entry.modality for entry in known})
    for option, value, names in (("--task", task, TASKS), ("--modality", modality, modalities)):
        if value is not None and value not in names:
            raise ConfigError(f"{option}: expected one of {', '.join(names)}, got {value!r}{suggest(value, names)}")
    return [
        entry
        for entry in known
        if (task is None or task in entry.tasks) and (modality is None or entry.modality == modality)
    ]


def _print_list(found: list[Status], root: Path) -> None:
    table = Table("dataset", "modality", "tasks", "licence", "access", "files")
    for each in found:
        entry = each.entry
        state = "present" if each.present else "missing"
        table.add_row(entry.name, entry.modality, ", ".join(entry.tasks), Text(entry.licence), entry.access, state)
    console = wide_console()
    console.print(table if found else "no dataset is like that")
    missing = [each for each in found if not each.present]
    for each in missing:
        needed = ", ".join(str(root / pattern) for pattern in each.missing)
        lines = f"{each.entry.name}: {each.entry.get}\n  from {each.entry.source}; not found: {needed}"
        console.print(Text(lines), soft_wrap=True)
    if missing:
        console.print(f"{len(found) - len(missing)} of {len(found)} datasets are below {root}", soft_wrap=True)


def _print_summary(entry: DatasetEntry, found: dict[str, Any]) -> None:
    lines = [f"{entry.name}: {entry.title}, {entry.modality}, for {', '.join(entry.tasks)}"]
    for name, split in found["splits"].items():
        classes = split.pop("classes", None)
        lines.append(f"{name}: " + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in split.items()))
        if classes:
            lines.append("  " + ", ".join(f"{label} {count:,}" for label, count in classes.items()))
    lines += [f"left out: {reason}: {count:,}" for reason, count in found["excluded"].items()]
    lines += [f"note: {caveat}" for caveat in found["caveats"]]
    lines += [f"digest {found['digest'][:16]}, of the splits {found['split_digest'][:16]}"]
    say(*lines)


def _listing(status: Status, root: Path) -> dict[str, Any]:
    entry = status.entry
    plain = {"name", "title", "modality", "licence", "access", "get", "source", "citation", "notes"}
    return entry.model_dump(include=plain) | {
        "tasks": {task: use.primary for task, use in entry.tasks.items()},
        "classes": len(entry.classes),
        "provenance": entry.provenance.model_dump(exclude_none=True),
        "present": status.present,
        "missing": [str(root / pattern) for pattern in status.missing],
    }


def _summary(dataset: LoadedDataset) -> dict[str, Any]:
    return {
        "name": dataset.entry.name,
        "digest": dataset.digest,
        "split_digest": dataset.split_digest,
        "splits": {name: _split_summary(split, dataset.entry) for name, split in dataset.splits.items()},
        "excluded": dataset.excluded,
        "duplicates": dataset.duplicates,
        "caveats": dataset.caveats,
    }


def _split_summary(split: Split, entry: DatasetEntry) -> dict[str, Any]:
    found: dict[str, Any] = {"items": len(split)}
    if split.patients is not None:
        found["patients"] = len(set(split.patients))
    if split.image_digests is not None:
        found["distinct_images"] = len(set(split.image_digests))
    if split.bags is not None:
        found["tiles_or_files"] = sum(len(bag.digests) for bag in split.bags)
    if split.targets is not None:
        counts_C = (
            split.targets.sum(axis=0)
            if split.targets.ndim == 2
            else np.bincount(split.targets, minlength=len(entry.classes))
        )
        found["classes"] = dict(zip(entry.classes, counts_C.tolist(), strict=True))
    if split.answer_types is not None:
        found["closed_questions"] = split.answer_types.count("closed")
    if split.captions is not None:
        found["distinct_captions"] = len(set(split.captions))
    if split.events is not None:
        found["events"] = int(split.events.sum())
    if split.features is not None:
        found["features"] = split.features.shape[1]
        found["missing_values"] = int(np.isnan(split.features).sum())
    return found
