"""From a student's section to its objective, and to how its pairs and targets are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from store.errors import ConfigError
from store.read.reader import FeatureStore
from train.config import StudentRun
from train.data.target_reader import Sampling
from train.losses.objective import Objective, TaskObjective
from train.recipe_sections import ImprovedRecipe

from .improved import ImprovedObjective, TeacherFacts
from .paper import PaperObjective
from .projection import Projection
from .teacher_statistics import fit_statistics, kept_statistics

ObjectiveMaker: TypeAlias = Callable[[Path, int], Objective]
"""Makes the objective from the run's folder, where fitted statistics are kept, and the width of the student."""


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
    """Return the function that makes a student's objective; ``available_NT`` says which teacher may teach which row."""
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
        # The width of a model that begins from a folder is only known now.
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
    """Return widths and logit scales of teachers; the recipe gives a scale where the spec does not."""
    facts = {}
    for name in teachers:
        spec = store.spec(name)
        noted = spec.notes.get("logit_scale")
        scale = recipe.logit_scales.get(name) if noted is None else float(noted)
        facts[name] = TeacherFacts(width=spec.embed_dim, logit_scale=scale)
    return facts


def sampling_of(run: StudentRun) -> Sampling | None:
    """Return how many teachers teach a row of a student; None for a student without teachers."""
    if run.recipe == "task_only":
        return None
    return "all" if run.recipe == "improved" else run.paper.teacher_sampling


def shuffles(run: StudentRun) -> bool:
    """Return whether each epoch has another order."""
    return run.recipe != "paper" or run.paper.shuffle
