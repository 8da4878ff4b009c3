"""The recipes by name: how a student's objective is made, and how its pairs and targets are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(kw_only=True, frozen=True, eq=False, slots=True)
class TeacherData:
    """The teachers of a run and their features.

    Attributes:
        available_NT: which of them may teach which row.
        projection: None for a recipe that does not use it.
    """

    store: FeatureStore
    teachers: Sequence[str]
    available_NT: npt.NDArray[np.bool_]
    projection: Projection | None


@dataclass(kw_only=True, frozen=True, slots=True)
class Recipe:
    """Settings that the students of one recipe share.

    Attributes:
        objective: makes the objective; see `ObjectiveMaker` for the last two arguments.
        sampling: how many teachers teach a row; None without teachers.
        shuffles: whether each epoch has another order.
        projects: whether features are projected to the student's width by `train.project`.
    """

    objective: Callable[[StudentRun, TeacherData, Path, int], Objective]
    sampling: Callable[[StudentRun], Sampling | None]
    shuffles: Callable[[StudentRun], bool] = lambda _run: True
    projects: bool = False


def task_only(folder: Path, embed_dim: int) -> Objective:
    """Return the objective without teachers."""
    del folder, embed_dim
    return TaskObjective()


def _paper(run: StudentRun, data: TeacherData, folder: Path, embed_dim: int) -> Objective:
    del folder
    projection = data.projection
    if projection is None:
        raise ValueError("the paper's recipe needs a projection")
    if embed_dim != projection.latent_dim:
        # The width of a model that begins from a folder is only known now.
        raise ConfigError(
            f"model.init: {run.model.init} has embeddings of {embed_dim}, but features are projected to "
            f"{projection.latent_dim} (train.project.latent_dim)",
            hint=f"set train.project.latent_dim: {embed_dim} and fit it again: python -m train project",
        )
    return PaperObjective(run.paper, projection)


def _improved(run: StudentRun, data: TeacherData, folder: Path, embed_dim: int) -> Objective:
    recipe, seed, statistics = run.improved, run.optimization.seed, None
    taught = np.flatnonzero(data.available_NT.any(axis=0)).tolist()
    teachers = [data.teachers[column] for column in taught]
    if recipe.uses_statistics:
        statistics = kept_statistics(
            folder,
            lambda: fit_statistics(
                data.store,
                teachers,
                data.available_NT[:, taught],
                rows=recipe.statistics_rows,
                seed=seed,
                phi_s=recipe.phi_s,
            ),
            spec_hashes={name: data.store.spec(name).hash for name in teachers},
        )
    facts = teacher_facts(data.store, teachers, recipe)
    return ImprovedObjective(recipe, facts, embed_dim=embed_dim, statistics=statistics, seed=seed)


def teacher_facts(store: FeatureStore, teachers: Sequence[str], recipe: ImprovedRecipe) -> dict[str, TeacherFacts]:
    """Return widths, logit scales and sides of teachers; the recipe gives a scale where the spec does not."""
    facts = {}
    for name in teachers:
        spec = store.spec(name)
        noted = spec.notes.get("logit_scale")
        scale = recipe.logit_scales.get(name) if noted is None else float(noted)
        facts[name] = TeacherFacts(width=spec.embed_dim, logit_scale=scale, sides=spec.sides)
    return facts


RECIPES: Mapping[str, Recipe] = {
    "paper": Recipe(
        objective=_paper,
        sampling=lambda run: run.paper.teacher_sampling,
        shuffles=lambda run: run.paper.shuffle,
        projects=True,
    ),
    "improved": Recipe(objective=_improved, sampling=lambda _run: "all"),
    "task_only": Recipe(
        objective=lambda _run, _data, folder, embed_dim: task_only(folder, embed_dim), sampling=lambda _run: None
    ),
}
"""By the names of ``train.students.NAME.recipe``."""
