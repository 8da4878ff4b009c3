"""``python -m evaluate``: compare students with their teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evaluate.config import EvaluatePipeline
from store.cli.options import PIPELINES_FILE, ConfigOption, PipelineOption
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError

from . import commands_datasets, commands_images, commands_results, commands_run

app = typer.Typer(help="Compare students with their teachers.", no_args_is_help=True, add_completion=False)
commands_run.add_commands(app)
commands_images.add_commands(app)
commands_datasets.add_commands(app)
commands_results.add_commands(app)


@app.command(epilog="Example: python -m evaluate demo --pipeline demo --dataset phantom_test")
def demo(
    *,
    pipeline: PipelineOption = "demo",
    config: ConfigOption = PIPELINES_FILE,
    dataset: Annotated[str, typer.Option(help="Which of evaluate.zero_shot is reported.")] = "phantom_test",
) -> None:
    """Run the whole main job, from drawing a corpus to comparing students, by its documented commands."""
    from .demo import run_demo

    loaded = read_pipeline(config, pipeline, EvaluatePipeline)
    (name,) = _datasets(loaded, dataset)
    report = run_demo(loaded, pipeline, config=config, dataset=name)
    console = Console()
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in report["seconds"].items())
    console.print(f"seconds: {stages}; in all {sum(report['seconds'].values()):.0f}", soft_wrap=True)
    console.print(f"report: {Path(loaded.evaluate.out) / 'report.json'}", highlight=False, soft_wrap=True)


def _datasets(pipeline: EvaluatePipeline, name: str | None) -> list[str]:
    known = list(pipeline.evaluate.zero_shot)
    if name is not None and name not in known:
        raise ConfigError(f"evaluate.zero_shot has no {name!r}; it has {', '.join(known)}")
    return known if name is None else [name]
