"""``python -m evaluate demo``: the whole main job on a CPU in minutes, by the commands that a user would type."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from evaluate.config import EvaluatePipeline
from evaluate.report.table import by_group
from evaluate.results.files import results_on
from evaluate.results.record import ORACLE
from store.cli.options import PIPELINES_FILE, ConfigOption, PipelineOption
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.errors import ConfigError, MMKDError
from store.files import write_atomic
from store.inspect.summary import summarize
from store.read.reader import FeatureStore

from .side_by_side import run_together

app = typer.Typer()

Command = list[str]


@app.command(epilog="Example: python -m evaluate demo --pipeline demo --dataset phantom_test")
def demo(
    *,
    pipeline: PipelineOption = "demo",
    config: ConfigOption = PIPELINES_FILE,
    dataset: Annotated[str, typer.Option(help="Report this set of evaluate.zero_shot.")] = "phantom_test",
) -> None:
    """Run the whole main job, from drawing a corpus to comparing students, by its documented commands."""
    loaded = read_pipeline(config, pipeline, EvaluatePipeline)
    if dataset not in loaded.evaluate.zero_shot:
        raise ConfigError(f"evaluate.zero_shot has no {dataset!r}{it_has(dataset, loaded.evaluate.zero_shot)}")
    report = run_demo(loaded, pipeline, config=config, dataset=dataset)
    console = Console()
    stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in report["seconds"].items())
    console.print(f"seconds: {stages}; in all {sum(report['seconds'].values()):.0f}", soft_wrap=True)
    console.print(f"report: {Path(loaded.evaluate.out) / 'report.json'}", highlight=False, soft_wrap=True)


def run_demo(pipeline: EvaluatePipeline, name: str, *, config: Path, dataset: str) -> dict[str, Any]:
    """Run corpus, teachers, extraction, distillation and evaluation; write ``report.json`` and return its content."""
    chosen = ["--pipeline", name, "--config", str(config)]
    corpora = [corpus for corpus, section in pipeline.corpora.items() if section.phantom]
    students = list(pipeline.train.students)
    seconds = {
        "corpus": _stage("corpus", _spread(["extract", "phantom", *chosen], "--corpus", corpora)),
        "teachers": _stage("teachers", _spread(["train", "pretrain", *chosen], "--run", list(pipeline.train.pretrain))),
        "extract": _stage("extract", [["extract", "index", *chosen]], [["extract", "run", *chosen]]),
        "distill": _stage(
            "distill",
            [["train", "project", *chosen]],
            _spread(["train", "distill", *chosen], "--student", students),
        ),
        "evaluate": _stage("evaluate", [["evaluate", "run", *chosen, "--dataset", dataset]]),
    }
    results = results_on(Path(pipeline.evaluate.out) / "results", task="zero_shot", dataset=dataset)
    models = {*pipeline.teachers, *students, ORACLE}
    summary = summarize(FeatureStore(pipeline.store.path))
    report = {
        "rows": summary.rows,
        "feature_pairs": summary.feature_pairs,
        "store": pipeline.store.path,
        "models": by_group(one for one in results if one.model.name in models),
        "seconds": seconds,
    }
    write_atomic(Path(pipeline.evaluate.out) / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def _spread(command: Command, option: str, names: Sequence[str]) -> list[Command]:
    """Share names out over as many processes as there are cores."""
    processes = min(os.cpu_count() or 1, len(names))
    shares = [names[start::processes] for start in range(processes)]
    return [[*command, *(part for name in share for part in (option, name))] for share in shares]


def _stage(name: str, *rounds: list[Command]) -> float:
    """Run rounds of commands, those of a round side by side, and return the seconds they took."""
    began = time.monotonic()
    for commands in rounds:
        for command in commands:
            sys.stderr.write(f"\n[{name}] $ python -m {shlex.join(command)}\n")
        codes = run_together([[sys.executable, "-m", *command] for command in commands])
        for command, code in zip(commands, codes, strict=True):
            if code:
                raise MMKDError(
                    f"python -m {shlex.join(command)} ended with exit code {code}",
                    hint="its own message is above; `make demo` goes on from there once it is mended",
                )
    return round(time.monotonic() - began, 1)
