"""``python -m evaluate demo``: the whole main job on a CPU in minutes, by the commands that a user would type."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluate.config import EvaluatePipeline
from evaluate.report.contents import gather
from evaluate.report.drawing.seconds import Stage
from evaluate.report.items import best_teacher
from evaluate.report.page import render
from evaluate.report.table import by_group
from evaluate.results.files import read_results, results_on
from evaluate.results.record import ORACLE, ResultRecord
from store.cli.options import PIPELINES_FILE, ConfigOption, PipelineOption
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.errors import ConfigError, MMKDError, printable
from store.files import write_atomic
from store.inspect.stage_report import report as stage_report
from store.inspect.summary import summarize
from store.read.reader import FeatureStore
from train.runtime.metrics_log import read_metrics

from .side_by_side import Chain, preload, run_together

app = typer.Typer()

QUICK = "quick"
"""The pipeline of ``make demo QUICK=1``."""

EVALUATED_IN = {"teacher": "extract", "task_only": "distill"}
"""The stage in which a model is evaluated beside other work, by its role."""

SECONDS = "seconds.json"
"""The file of the seconds that each stage took, over all runs until it was done."""


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
    for needed, there in (
        ("corpus with phantom:", [one for one in loaded.corpora.values() if one.phantom]),
        ("train.pretrain", loaded.train.pretrain),
        ("train.students", loaded.train.students),
    ):
        if not there:
            raise ConfigError(f"{config}: pipeline {pipeline} is no demo: it has no {needed}")
    note = _note(loaded, pipeline)
    sys.stderr.write(f"{note}\n")
    seconds = run_stages(loaded, pipeline, config=config, dataset=dataset)
    page = write_report(loaded, dataset=dataset, note=note)
    sys.stdout.write("\n".join([*_summary(_results(loaded, dataset)), _told(seconds), *_ending(loaded, page)]) + "\n")


def run_stages(pipeline: EvaluatePipeline, name: str, *, config: Path, dataset: str) -> dict[str, float]:
    """Run corpus, teachers, extraction, distillation and evaluation; return the seconds that each took now."""
    chosen = ["--pipeline", name, "--config", str(config)]
    distill, evaluate = ["train", "distill", *chosen], ["evaluate", "run", *chosen, "--dataset", dataset]
    students = pipeline.train.students
    taught = [student for student in students if students[student].recipe != "task_only"]
    project = [["train", "project", *chosen]] if any(students[student].recipe == "paper" for student in taught) else []
    alone = [student for student in students if student not in taught]
    # Without Ray the little work of the quick demo is done before a cluster would have started.
    local = ["--local"] if name == QUICK else []
    corpora = [corpus for corpus, section in pipeline.corpora.items() if section.phantom]
    drawn = _spread(["extract", "phantom", *chosen], "--corpus", corpora)
    stages = {
        "corpus": drawn,
        "teachers": _spread(["train", "pretrain", *chosen], "--run", list(pipeline.train.pretrain)),
        # Ray needs little of the cores while it starts.
        "extract": [
            [["extract", "index", *chosen], ["extract", "run", *chosen, *local]],
            [[*evaluate, *_each("--model", pipeline.teachers)]],
        ],
        "distill": [
            *([[*project, [*distill, *_each("--student", taught)]]] if taught else []),
            *([[[*distill, *_each("--student", alone)], [*evaluate, *_each("--model", alone)]]] if alone else []),
        ],
        "evaluate": [[evaluate]],
    }
    preload()
    out = Path(pipeline.evaluate.out)
    # Drawing needs none of the libraries that are loaded meanwhile.
    return {stage: _stage(stage, *chains, out=out, preloaded=chains is not drawn) for stage, chains in stages.items()}


def write_report(pipeline: EvaluatePipeline, *, dataset: str, note: str) -> Path:
    """Write ``report.json`` and ``report.html`` of what the stages left; return the path of the page."""
    out = Path(pipeline.evaluate.out)
    models = {*pipeline.teachers, *pipeline.train.students, ORACLE}
    store = FeatureStore(pipeline.store.path)
    summary, stages = summarize(store), _stages(pipeline, store)
    report = {
        "rows": summary.rows,
        "feature_pairs": summary.feature_pairs,
        "store": pipeline.store.path,
        "models": by_group(one for one in _results(pipeline, dataset) if one.model.name in models),
        "seconds": {name: stage.seconds for name, stage in stages.items()},
    }
    write_atomic(out / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    page = render(gather(out / "results"), title=f"{dataset}: students and their teachers", note=note, stages=stages)
    write_atomic(out / "report.html", page.encode())
    return out / "report.html"


def _note(pipeline: EvaluatePipeline, name: str) -> str:
    steps = [run.optimization.steps for run in pipeline.train.pretrain.values()]
    students = ", ".join(f"{key} {run.optimization.steps}" for key, run in pipeline.train.students.items())
    said = (
        f"Pipeline {name}: {len(pipeline.teachers)} teachers of {min(steps)} to {max(steps)} steps; "
        f"steps of the students: {students}. The images are drawn; they are not patient data."
    )
    if name == QUICK:
        said += " This is the quick demo: fewer teachers, modalities and steps than `make demo`, and worse students."
    return said


def _results(pipeline: EvaluatePipeline, dataset: str) -> list[ResultRecord]:
    found = results_on(Path(pipeline.evaluate.out) / "results", task="zero_shot", dataset=dataset)
    return [one for one in found if isinstance(one, ResultRecord)]


def _stages(pipeline: EvaluatePipeline, store: FeatureStore) -> dict[str, Stage]:
    """Return the seconds of each stage and of its parts, from the records that the stages left."""
    parts: dict[str, dict[str, float]] = {
        "corpus": {},
        "teachers": {name: _trained_s(run.out) for name, run in pipeline.train.pretrain.items()},
        "extract": dict(stage_report(store).stages_s),
        "distill": {name: _trained_s(run.out) for name, run in pipeline.train.students.items()},
        "evaluate": {},
    }
    for one in read_results(Path(pipeline.evaluate.out) / "results"):
        if isinstance(one, ResultRecord) and one.model.name != ORACLE:
            stage = EVALUATED_IN.get(one.model.role, "evaluate")
            parts[stage][f"{one.model.name}, {one.task}"] = one.seconds
    spent = _read_seconds(Path(pipeline.evaluate.out))
    return {name: Stage(seconds=of["seconds"], parts=parts.get(name, {})) for name, of in spent.items()}


def _trained_s(folder: str) -> float:
    """Return the seconds of a training; of one that was interrupted, since it went on."""
    return float(next((line["seconds"] for line in reversed(read_metrics(Path(folder))) if "seconds" in line), 0.0))


def _summary(records: Sequence[ResultRecord]) -> list[str]:
    """Return a line for the best teacher, each student and the oracle, with mean accuracy over groups."""
    best = best_teacher(records)
    shown = [("best teacher", best)] if best else []
    for role, title in (("task_only", "task-only"), ("student", "distilled"), (ORACLE, ORACLE)):
        shown += [(title, one) for one in records if one.model.role == role]
    names = [printable(one.model.name) for _, one in shown]
    width = max(map(len, names), default=0)
    return [
        f"{title:<12}  {name:<{width}}  {one.metrics[one.primary]}"
        for name, (title, one) in zip(names, shown, strict=True)
    ]


def _told(seconds: Mapping[str, float]) -> str:
    stages = ", ".join(f"{stage} {spent:.0f}" for stage, spent in seconds.items())
    return f"seconds: {stages}; in all {sum(seconds.values()):.0f}"


def _ending(pipeline: EvaluatePipeline, page: Path) -> list[str]:
    student = _near(next(run.out for run in pipeline.train.students.values()))
    options = ["--out", f"{student}_export", "--store", _near(pipeline.store.path)]
    export = shlex.join([_near(sys.executable), "-m", "train", "export", student, *options])
    return [f"report: {printable(_near(page))}", f"next: {printable(export)}"]


def _near(path: str | Path) -> str:
    """Return a path as seen from the current folder, if it lies in that."""
    return str(Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else path)


def _spread(command: list[str], option: str, names: Sequence[str]) -> list[Chain]:
    """Share names out over as many processes as there are cores."""
    processes = min(os.cpu_count() or 1, len(names))
    shares = [names[start::processes] for start in range(processes)]
    return [[[*command, *_each(option, share)]] for share in shares]


def _each(option: str, names: Iterable[str]) -> list[str]:
    """Return an option with each of its values."""
    return [part for name in names for part in (option, name)]


def _stage(name: str, *chains: Chain, out: Path, preloaded: bool = True) -> float:
    """Run chains of commands side by side, and return the seconds they took; note them in ``out``."""
    began, done = time.monotonic(), False
    for command in (command for chain in chains for command in chain):
        sys.stderr.write(f"\n[{name}] $ python -m {shlex.join(command)}\n")
    try:
        for command, code in run_together(chains, preloaded=preloaded):
            if code:
                raise MMKDError(
                    f"python -m {shlex.join(command)} ended with exit code {code}",
                    hint="its own message is above; `make demo` goes on from there once it is mended",
                )
        done = True
    finally:
        seconds = round(time.monotonic() - began, 1)
        _note_seconds(out, name, seconds, done=done)
    return seconds


def _read_seconds(out: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((out / SECONDS).read_text()) if (out / SECONDS).is_file() else {}
    return found


def _note_seconds(out: Path, stage: str, seconds: float, *, done: bool) -> None:
    """Add seconds to what a stage took before; once it is done, a run that finds nothing to do adds none."""
    spent = _read_seconds(out)
    before = spent.get(stage, {"seconds": 0.0, "done": False})
    total = max(before["seconds"], seconds) if before["done"] else round(before["seconds"] + seconds, 1)
    spent[stage] = {"seconds": total, "done": done or before["done"]}
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / SECONDS, (json.dumps(spent, indent=1) + "\n").encode())
