"""From a student's section to what it minimizes and what is read for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from store.errors import ConfigError
from store.read.reader import FeatureStore
from train.config import StudentRun
from train.data.target_reader import Sampling, TargetReader
from train.losses.objective import Objective, TaskObjective
from train.recipe_sections import ImprovedRecipe

from .improved import ImprovedObjective, TeacherFacts
from .paper import PaperObjective
from .projection import Projection
from .teacher_statistics import fit_statistics, kept_statistics

ObjectiveMaker: TypeAlias = Callable[[Path, int], Objective]
"""Makes an objective for a run's folder, where what it is fitted to is kept, and the width of the student."""


def task_only(folder: Path, embed_dim: int) -> Objective:
    """Return the objective without teachers."""
    del folder, embed_dim
    return TaskObjective()


def objective_maker(
    run: StudentRun,
    projection: Projection | None,
    store: FeatureStore,
    available_NT: npt.NDArray[np.bool_],
    *,
    teachers: Sequence[str],
) -> ObjectiveMaker:
    """Return what makes a student's objective.

    Args:
        run: its section.
        projection: for the recipe that has one.
        store: where their features are.
        available_NT: which teacher may teach which row.
        teachers: T ids.
    """
    if run.recipe == "paper" and projection is not None:
        return lambda _folder, embed_dim: _paper(run, projection, embed_dim=embed_dim)
    if run.recipe == "improved":
        columns = [column for column in range(len(teachers)) if available_NT[:, column].any()]
        teaching = [teachers[column] for column in columns]
        return lambda folder, embed_dim: _improved(
            run, store, teaching, available_NT[:, columns], folder=folder, embed_dim=embed_dim
        )
    return task_only


def _paper(run: StudentRun, projection: Projection, *, embed_dim: int) -> Objective:
    if embed_dim != projection.latent_dim:
        # Of a model that begins as a folder, only now is known how wide it is.
        raise ConfigError(
            f"model.init: {run.model.init} has embeddings of {embed_dim}, but features are projected to "
            f"{projection.latent_dim} (train.project.latent_dim)",
            hint=f"set train.project.latent_dim: {embed_dim} and fit it again: python -m train project",
        )
    return PaperObjective(run.paper, projection)


def _improved(
    run: StudentRun,
    store: FeatureStore,
    teachers: Sequence[str],
    available_NT: npt.NDArray[np.bool_],
    *,
    folder: Path,
    embed_dim: int,
) -> Objective:
    recipe, seed, statistics = run.improved, run.optimization.seed, None
    if recipe.uses_statistics:
        statistics = kept_statistics(
            folder,
            lambda: fit_statistics(
                store, teachers, available_NT, rows=recipe.statistics_rows, seed=seed, phi_s=recipe.phi_s
            ),
            spec_hashes={name: store.spec(name).hash for name in teachers},
        )
    return ImprovedObjective(
        recipe, teacher_facts(store, teachers, recipe), embed_dim=embed_dim, statistics=statistics, seed=seed
    )


def teacher_facts(store: FeatureStore, teachers: Sequence[str], recipe: ImprovedRecipe) -> dict[str, TeacherFacts]:
    """Return what is known of teachers: their specs' logit scales, or else the recipe's."""
    facts = {}
    for name in teachers:
        spec = store.spec(name)
        noted = spec.notes.get("logit_scale")
        scale = recipe.logit_scales.get(name) if noted is None else float(noted)
        facts[name] = TeacherFacts(width=spec.embed_dim, logit_scale=scale)
    return facts


def target_reader(
    run: StudentRun, store: FeatureStore, available_NT: npt.NDArray[np.bool_], *, teachers: Sequence[str]
) -> TargetReader | None:
    """Return what reads the features that a student's objective needs; None if it needs none."""
    if run.recipe == "task_only":
        return None
    sampling: Sampling = "all" if run.recipe == "improved" else run.paper.teacher_sampling
    return TargetReader(
        store, teachers=teachers, available_NT=available_NT, seed=run.optimization.seed, sampling=sampling
    )


def shuffles(run: StudentRun) -> bool:
    """Whether the pairs come in another order in each epoch."""
    return run.recipe != "paper" or run.paper.shuffle
