"""From a student's section to what it minimizes and what is read for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from store.reader import FeatureStore

from .config import StudentRun
from .objective import Objective, TaskObjective
from .projection import Projection
from .recipe_paper import PaperObjective
from .spans import Sampling, TargetReader

ObjectiveMaker: TypeAlias = Callable[[Path, int], Objective]
"""Makes an objective for a run's folder, where what it is fitted to is kept, and the width of the student."""


def task_only(folder: Path, embed_dim: int) -> Objective:
    """Return the objective without teachers."""
    del folder, embed_dim
    return TaskObjective()


def objective_maker(run: StudentRun, projection: Projection | None) -> ObjectiveMaker:
    """Return what makes a student's objective.

    Args:
        run: its section.
        projection: for the recipe that has one.
    """
    if run.recipe == "paper" and projection is not None:
        return lambda _folder, _embed_dim: PaperObjective(run.paper, projection)
    return task_only


def target_reader(run: StudentRun, store: FeatureStore, available_NT: npt.NDArray[np.bool_]) -> TargetReader | None:
    """Return what reads the features that a student's objective needs; None if it needs none."""
    if run.recipe == "task_only":
        return None
    sampling: Sampling = run.paper.teacher_sampling
    return TargetReader(
        store, teachers=store.teachers, available_NT=available_NT, seed=run.optimization.seed, sampling=sampling
    )


def shuffles(run: StudentRun) -> bool:
    """Whether the pairs come in another order in each epoch."""
    return run.recipe != "paper" or run.paper.shuffle
