"""``python -m evaluate run``: models on datasets of a pipeline and of the registry."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.table import Table

from evaluate.config import EvaluatePipeline
from evaluate.datasets.entry import DatasetEntry
from evaluate.datasets.official import official_entry
from evaluate.datasets.registry import SHIPPED, find_dataset, status
from evaluate.datasets.task_kinds import known_task
from evaluate.metrics.bootstrap import RESAMPLES, Mode
from evaluate.models.pipeline_models import DeviceOption, MaybePipelineOption, ModelOption, addresses_of
from evaluate.report.table import by_group, results_table
from evaluate.results.files import results_on
from evaluate.results.record import Result, ResultRecord, SkippedRecord
from evaluate.suite.plan import Evaluation, Settings, brings_features, plan
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, SetOption, print_json, wide_console
from store.console import ExitCode, say_next, styled
from store.errors import ConfigError
from store.images.decode import MAX_PIXELS
from store.read.reader import FeatureStore

from .commands_datasets import (
    AllowOption,
    DataRootOption,
    DatasetsOption,
    allowed,
    known_datasets,
    read_maybe,
    root_of,
)
from .commands_results import results_folder

app = typer.Typer()

ResultsOption = Annotated[Path | None, typer.Option("--results", help="Folder of the results.")]


@app.command(epilog="Example: python -m evaluate run --model local-dir:STUDENT --dataset breastmnist")
def run(
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    model: ModelOption = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="A dataset of the pipeline (evaluate.zero_shot, .retrieval) or of the registry; may be repeated. If "
            "left out: those of the pipeline, or without a pipeline all whose files are there."
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks; may be repeated.")] = None,
    datasets: DatasetsOption = None,
    data_root_: DataRootOption = None,
    results: ResultsOption = None,
    allow: AllowOption = None,
    overlap_with: Annotated[str | None, typer.Option("--overlap", help="A store to look for test images in.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="Mode of the resamples: official, stratified, cluster or plain.")
    ] = None,
    official: Annotated[
        bool,
        typer.Option(
            "--official", help="Zero-shot prompts, scores, metrics and resamples of MMKD-CLIP's released evaluator."
        ),
    ] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Number of resamples of each interval.")] = RESAMPLES,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images of a forward pass; evaluate.batch_size or 256 if left out.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that decode images and compute; evaluate.threads or 2 if left out."),
    ] = None,
    device: DeviceOption = "cpu",
    again: Annotated[bool, typer.Option("--again", help="Evaluate again what has a result already.")] = False,
    skip_existing: Annotated[  # noqa: ARG001 - accepted for old scripts; skipping is the rule now
        bool, typer.Option("--skip-existing", hidden=True)
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", hidden=True)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate models on datasets, those of a pipeline or of the registry, in all their tasks.

    Results are records with intervals (see report, compare, leaderboard). What has a result of the same model, data
    and settings is left alone.
    """
    chosen_tasks, chosen_mode = _tasks(task), _mode(mode)
    loaded = read_maybe(pipeline, config, overrides=set_)
    root = root_of(loaded, data_root_)
    entries = _entries(loaded, known_datasets(loaded, datasets), dataset, root)
    if official:
        entries = [official_entry(entry, root) for entry in entries]
    evaluations = _evaluations(entries, model, loaded, tasks=chosen_tasks, root=root)
    if dry_run:
        _print_plan(evaluations, as_json=as_json)
        return
    section = loaded.evaluate if loaded else None
    settings = Settings(
        results=results_folder(results, section),
        data_root=root,
        teachers=loaded.teachers if loaded else {},
        batch_size=batch_size or (section.batch_size if section else 256),
        threads=threads or (section.threads if section else 2),
        device=device,
        max_pixels=loaded.max_pixels if loaded else MAX_PIXELS,
        window=loaded.image.bounds if loaded else None,
        mode=chosen_mode,
        official=official,
        resamples=resamples,
        allow=tuple(allowed(allow or [])),
        again=again or overwrite,
        overlap=None if overlap_with is None else FeatureStore(overlap_with),
    )
    _run(evaluations, settings, as_json=as_json)


def _entries(
    loaded: EvaluatePipeline | None, known: dict[str, DatasetEntry], names: list[str] | None, root: Path
) -> list[DatasetEntry]:
    """Return the datasets that are named; without names those of the pipeline, else those whose files are there."""
    chosen = names or (list(loaded.evaluate.own_sets) if loaded else [])
    if chosen:
        return [find_dataset(name, known) for name in chosen]
    present = [entry for entry in known.values() if status(entry, root).present]
    if not present:
        raise ConfigError(
            f"no dataset of the registry is below {root}",
            hint=f"python -m evaluate list says what to fetch from where; {SHIPPED.name}/ holds the registry",
        )
    return present


def _evaluations(
    entries: list[DatasetEntry],
    models: list[str] | None,
    loaded: EvaluatePipeline | None,
    *,
    tasks: list[str],
    root: Path,
) -> list[Evaluation]:
    addresses = [] if models is None and all(map(brings_features, entries)) else addresses_of(models, loaded)
    evaluations = plan(addresses, entries, tasks=tasks, data_root=root)
    if not evaluations:
        have = "; ".join(f"{entry.name} is for {', '.join(entry.tasks)}" for entry in entries)
        raise ConfigError(f"nothing to do: no dataset is for {' or '.join(tasks) or 'any task'}: {have}")
    return evaluations


def _run(evaluations: list[Evaluation], settings: Settings, *, as_json: bool) -> None:
    import torch

    from evaluate.suite.suite import Suite

    torch.set_num_threads(settings.threads)
    records = Suite(settings).run_all(evaluations)
    if as_json:
        print_json([record.model_dump(mode="json", exclude={"details"}) for record in records])
    else:
        _print(records, settings.results)
    if all(isinstance(record, SkippedRecord) for record in records):
        raise typer.Exit(ExitCode.INCOMPLETE)
    say_next(
        f"python -m evaluate report --results {shlex.quote(str(settings.results))}  # writes one page of all results"
    )


def _tasks(names: list[str] | None) -> list[str]:
    try:
        return [known_task(name) for name in names or []]
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _mode(name: str | None) -> Mode | None:
    if name is not None and name not in get_args(Mode):
        raise ConfigError(f"no mode {name!r} of resampling; there are {', '.join(get_args(Mode))}")
    return cast("Mode | None", name)


def _print_plan(evaluations: list[Evaluation], *, as_json: bool) -> None:
    names = ("model", "task", "dataset", "missing")
    rows = [(one.model, one.task, one.entry.name, ", ".join(one.missing)) for one in evaluations]
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    table = Table(*names, title=f"{len(rows)} evaluations", box=None)
    for row in rows:
        table.add_row(*map(styled, row))
    wide_console().print(table)


def _print(records: list[Result], folder: Path) -> None:
    """Print a table of accuracy by group for each dataset with groups, and a line for each other result."""
    console = wide_console()
    grouped = {one.dataset.name: one for one in records if isinstance(one, ResultRecord) and "groups" in one.details}
    for name, like in grouped.items():
        # With the results of earlier runs: students are compared with teachers that were evaluated before them.
        found = [
            one
            for one in results_on(folder, task=like.task, dataset=name)
            if isinstance(one, ResultRecord) and one.split_digest == like.split_digest and one.protocol == like.protocol
        ]
        console.print(results_table(by_group(found), title=f"zero-shot accuracy, {name}"))
    table = Table("model", "task", "dataset", "result", box=None)
    for record in records:
        if isinstance(record, SkippedRecord):
            said = f"skipped: {record.skipped}"
        elif record.dataset.name in grouped:
            continue
        else:
            said = record.cite(record.primary) + _robustness(record)
        table.add_row(*map(styled, (record.model.name, record.task, record.dataset.name, said)))
    if table.row_count:
        console.print(table)


def _robustness(record: ResultRecord) -> str:
    """Return how far single prompt templates differ, where a result knows several."""
    found = record.details.get("prompts") or {}
    spread = found.get("spread")
    if not spread:
        return ""
    count = len(found["templates"])
    return f"; single prompts {spread['low']:.3f} to {spread['high']:.3f}, sd {spread['sd']:.3f} over {count}"
