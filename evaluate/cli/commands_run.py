"""``python -m evaluate run``: models on datasets of a pipeline and of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from evaluate.config import EvaluatePipeline
from evaluate.datasets.entry import TASKS, DatasetEntry, TaskName
from evaluate.datasets.registry import SHIPPED, data_root, find_dataset, read_registry, status
from evaluate.metrics.statistics import RESAMPLES, Mode
from evaluate.models.pipeline_models import DeviceOption, MaybePipelineOption, ModelOption, addresses_of
from evaluate.report.table import results_table
from evaluate.results.record import ResultRecord, SkippedRecord
from evaluate.suite.plan import Job, Settings, brings_features, plan
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, SetOption, print_json, wide_console
from store.config.pipeline_file import read_pipeline
from store.config.problems import suggest
from store.console import ExitCode
from store.errors import ConfigError
from store.read.reader import FeatureStore

from .commands_datasets import AllowOption, DataRootOption, DatasetsOption, allowed
from .commands_results import RESULTS

ResultsOption = Annotated[Path | None, typer.Option("--results", help="Folder of the results.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to a program."""
    app.command(epilog="Example: python -m evaluate run --model local-dir:STUDENT --dataset breastmnist")(run)


def run(
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    model: ModelOption = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Of evaluate.zero_shot, or of the registry; may be repeated. Those of the pipeline, or else "
            "all whose files are there, if left out."
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks of datasets of the registry.")] = None,
    datasets: DatasetsOption = None,
    data_root_: DataRootOption = None,
    results: ResultsOption = None,
    allow: AllowOption = None,
    overlap_with: Annotated[str | None, typer.Option("--overlap", help="A store to look for test images in.")] = None,
    mode: Annotated[str | None, typer.Option(help="Of resamples: official, stratified, cluster or plain.")] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Zero-shot scores and resamples as MMKD-CLIP's released evaluator does.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Of each interval.")] = RESAMPLES,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward pass.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="That decode images and compute.")] = 2,
    device: DeviceOption = "cpu",
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave results that are up to date.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Evaluate what is up to date of the pipeline's own datasets too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate models on datasets: those of a pipeline, and those of the registry in all their tasks.

    Results of the registry's datasets are records with intervals (see report, compare, leaderboard).
    """
    chosen_tasks, chosen_mode = _tasks(task), _mode(mode)
    loaded = None if pipeline is None else read_pipeline(config, pipeline, EvaluatePipeline, overrides=set_ or [])
    mine, others = _own_and_others(loaded, dataset, model)
    planned: list[tuple[str, str, str, str]] = []
    if mine and loaded is not None:
        if dry_run:
            planned += [(one.name, "zero_shot", name, "") for name in mine for one in addresses_of(model, loaded)]
        else:
            _run_own(loaded, mine, model, overwrite=overwrite, as_json=as_json)
    if others or not mine:
        root = _root(loaded, data_root_)
        jobs = _jobs(_entries(loaded, datasets, others, data_root_), model, loaded, tasks=chosen_tasks, root=root)
        settings = Settings(
            results=results or (Path(loaded.evaluate.out) / "results" if loaded else RESULTS),
            data_root=root,
            teachers=loaded.teachers if loaded else {},
            batch_size=batch_size,
            threads=threads,
            device=device,
            mode=chosen_mode,
            official=official,
            resamples=resamples,
            allow=tuple(allowed(allow or [])),
            skip_existing=skip_existing,
            overlap=None if overlap_with is None else FeatureStore(overlap_with),
        )
        if dry_run:
            planned += [(job.model, job.task, job.entry.name, ", ".join(job.missing)) for job in jobs]
        else:
            _run_jobs(jobs, settings, as_json=as_json)
    if dry_run:
        _say_plan(planned, as_json=as_json)


def _own_and_others(
    loaded: EvaluatePipeline | None, names: list[str] | None, models: list[str] | None
) -> tuple[list[str], list[str]]:
    """Return which of the datasets that are meant are the pipeline's own, and which are the registry's."""
    own = [] if loaded is None else list(loaded.evaluate.zero_shot)
    meant = own if names is None else names
    mine = [name for name in meant if name in own]
    if mine and any(":" in text for text in models or []):
        # Addresses are of models that the pipeline's own datasets do not know.
        if names is None:
            return [], []
        raise ConfigError(
            f"{', '.join(mine)}: the pipeline's own datasets are for its own teachers and students, by name",
            hint="leave --model out, or name datasets of the registry",
        )
    return mine, [name for name in meant if name not in own]


def _jobs(
    entries: list[DatasetEntry],
    models: list[str] | None,
    loaded: EvaluatePipeline | None,
    *,
    tasks: list[TaskName],
    root: Path,
) -> list[Job]:
    addresses = [] if models is None and all(map(brings_features, entries)) else addresses_of(models, loaded)
    jobs = plan(addresses, entries, tasks=tasks, data_root=root)
    if not jobs:
        have = "; ".join(f"{entry.name} is for {', '.join(entry.tasks)}" for entry in entries)
        raise ConfigError(f"nothing to do: no dataset is for {' or '.join(tasks) or 'any task'}: {have}")
    return jobs


def _run_jobs(jobs: list[Job], settings: Settings, *, as_json: bool) -> None:
    import torch

    from evaluate.suite.suite import Suite

    torch.set_num_threads(settings.threads)
    suite = Suite(settings)
    suite.find(jobs)
    records = [record for job in jobs for record in suite.run(job)]
    _say(records, as_json=as_json)
    if records and all(isinstance(record, SkippedRecord) for record in records):
        raise typer.Exit(ExitCode.INCOMPLETE)


def _run_own(
    loaded: EvaluatePipeline, names: list[str], models: list[str] | None, *, overwrite: bool, as_json: bool
) -> None:
    from evaluate.suite.run import evaluate

    for name in names:
        result = evaluate(loaded, name, models=models, overwrite=overwrite)
        if as_json:
            print_json(result)
        else:
            Console().print(results_table(result["models"], title=f"zero-shot accuracy, {name}"))


def _entries(
    loaded: EvaluatePipeline | None, folders: list[Path] | None, names: list[str], data_root_: Path | None
) -> list[DatasetEntry]:
    """Return the datasets that are named; without names those whose files are there."""
    more = [Path(folder) for folder in (loaded.evaluate.datasets if loaded else [])] + (folders or [])
    known = read_registry(more)
    if names:
        return [find_dataset(name, known) for name in names]
    root = _root(loaded, data_root_)
    present = [entry for entry in known.values() if status(entry, root).present]
    if not present:
        raise ConfigError(
            f"no dataset of the registry is below {root}",
            hint=f"python -m evaluate list says what to fetch from where; {SHIPPED.name}/ holds the registry",
        )
    return present


def _root(loaded: EvaluatePipeline | None, option: Path | None) -> Path:
    stated = loaded.evaluate.data_root if loaded else None
    return data_root(option or (Path(stated) if stated else None))


def _tasks(names: list[str] | None) -> list[TaskName]:
    unknown = [name for name in names or [] if name not in TASKS]
    if unknown:
        raise ConfigError(f"no task {unknown[0]!r}{suggest(unknown[0], TASKS)}; there are {', '.join(TASKS)}")
    return cast("list[TaskName]", names or [])


def _mode(name: str | None) -> Mode | None:
    if name is not None and name not in get_args(Mode):
        raise ConfigError(f"no mode {name!r} of resampling; there are {', '.join(get_args(Mode))}")
    return cast("Mode | None", name)


def _say_plan(rows: list[tuple[str, str, str, str]], *, as_json: bool) -> None:
    names = ("model", "task", "dataset", "missing")
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    table = Table(*names, title=f"{len(rows)} evaluations", box=None)
    for row in rows:
        table.add_row(*row)
    wide_console().print(table)


def _say(records: list[ResultRecord | SkippedRecord], *, as_json: bool) -> None:
    if as_json:
        print_json([record.model_dump(mode="json", exclude={"details"}) for record in records])
        return
    table = Table("model", "task", "dataset", "result", box=None)
    for record in records:
        said = f"skipped: {record.skipped}" if isinstance(record, SkippedRecord) else record.cite(record.primary)
        table.add_row(record.model.name, record.task, record.dataset.name, said)
    wide_console().print(table)
