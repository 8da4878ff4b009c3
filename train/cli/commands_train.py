"""``python -m train pretrain``, ``project``, ``distill``: both stages of training and the projections."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from store.cli.options import PIPELINES_FILE, ConfigOption, PipelineOption, SetOption, options_of
from store.config.missing import NAME, example_of, to_add
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.console import say_next
from store.errors import ConfigError
from train.config import PretrainRun, ProjectSection, StudentRun, TrainPipeline

if TYPE_CHECKING:
    from train.trainer.train_model import Circumstances

log = logging.getLogger("train")
app = typer.Typer()

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace another run's result.")]
CorpusRootOption = Annotated[Path | None, typer.Option(help="The present place of the corpus, if it moved.")]
Run = TypeVar("Run", PretrainRun, StudentRun)


class Resume(StrEnum):
    """Use of the checkpoints of an interrupted run."""

    AUTO = "auto"
    NEVER = "never"


ResumeOption = Annotated[Resume, typer.Option(help="Go on from the last checkpoint if there is one, or never.")]


@app.command(epilog="Example: python -m train pretrain --pipeline demo --run tiny_ct")
def pretrain(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    run: Annotated[list[str] | None, typer.Option(help="Train only this run of train.pretrain.")] = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = Resume.AUTO,
    corpus_root: CorpusRootOption = None,
) -> None:
    """Stage 1: CLIP pretraining on the pairs of a corpus or of the store."""
    from train.trainer import stages

    loaded = read_pipeline(config, pipeline, TrainPipeline, overrides=set_ or [])
    chosen = _chosen(loaded.train.pretrain, run, "train.pretrain", pipeline)
    steps = [f"python -m train export {shlex.quote(one.out)} --out FOLDER" for one in chosen.values()]
    _train(loaded, chosen, stages.pretrain, steps, overwrite=overwrite, resume=resume, corpus_root=corpus_root)


@app.command(epilog="Example: python -m train project --pipeline demo")
def project(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit the paper's per-teacher projections on the store's features."""
    from train.recipes.fit_projections import project as fit_projections

    loaded = read_pipeline(config, pipeline, TrainPipeline, overrides=set_ or [])
    if loaded.train.project is None:
        raise ConfigError(
            f"{config}: pipeline {pipeline} has no train.project",
            hint=to_add(((pipeline, "train", "project"), example_of(ProjectSection))),
        )
    if not fit_projections(loaded, loaded.train.project, overwrite=overwrite):
        log.info("the projections are fitted already: nothing to do")
    say_next(f"python -m train distill {options_of(pipeline, config)}")


@app.command(epilog="Example: python -m train distill --pipeline demo --student distilled")
def distill(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    student: Annotated[list[str] | None, typer.Option(help="Train only this one of train.students.")] = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = Resume.AUTO,
    corpus_root: CorpusRootOption = None,
) -> None:
    """Stage 2: train students from the store and the corpus's images."""
    from train.trainer import stages

    loaded = read_pipeline(config, pipeline, TrainPipeline, overrides=set_ or [])
    chosen = _chosen(loaded.train.students, student, "train.students", pipeline)
    store = shlex.quote(loaded.store.path)
    compare = f"python -m evaluate run {options_of(pipeline, config)}  # compares students and teachers"
    steps = [
        *[compare] * (loaded.evaluate is not None),
        *(f"python -m train export {shlex.quote(one.out)} --store {store} --out FOLDER" for one in chosen.values()),
    ]
    _train(loaded, chosen, stages.distill, steps, overwrite=overwrite, resume=resume, corpus_root=corpus_root)


def _train(
    pipeline: TrainPipeline,
    chosen: Mapping[str, Run],
    train: Callable[[TrainPipeline, str, Run, Circumstances], bool],
    steps: Sequence[str],
    *,
    overwrite: bool,
    resume: Resume,
    corpus_root: Path | None,
) -> None:
    from train.runtime.ranks import joined
    from train.trainer.train_model import Circumstances

    with joined() as ranks:
        how = Circumstances(overwrite=overwrite, resume=resume == Resume.AUTO, corpus_root=corpus_root, ranks=ranks)
        for name, section in chosen.items():
            if not train(pipeline, name, section, how):
                log.info("%s is trained already: nothing to do", name)
        if ranks.is_first:
            say_next(*steps)


def _chosen(known: Mapping[str, Run], names: list[str] | None, where: str, pipeline: str) -> dict[str, Run]:
    if not known:
        section = PretrainRun if where == "train.pretrain" else StudentRun
        raise ConfigError(
            f"pipeline {pipeline} has nothing in {where}: nothing to do",
            hint=to_add(((pipeline, *where.split("."), NAME), example_of(section))),
        )
    if unknown := sorted({*(names or [])} - {*known}):
        raise ConfigError(f"{where} has no {', '.join(unknown)}{it_has(unknown[0], known)}")
    chosen, owners = {name: known[name] for name in names or known}, dict[str, str]()
    for name, run in chosen.items():
        if run.out in owners:
            raise ConfigError(f"{where}.{name}.out: {owners[run.out]} has the same folder; give each run its own")
        if run.model.init == run.out:
            raise ConfigError(f"{where}.{name}.out: it is the folder that model.init starts from; give another one")
        owners[run.out] = name
    return chosen
