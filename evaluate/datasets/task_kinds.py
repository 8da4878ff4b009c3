"""The tasks, and what a dataset needs for each; ``suite.task_runs.RUNS`` has the function that runs each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from store.config.problems import suggest
from store.format.records import Side

Items = Literal["images", "bags", "table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskKind:
    """The needs of a task.

    Attributes:
        first_result: the result that it always has, if it has several; the task's own name if left out.
        items: what its items may be: single images, bags of tiles, rows of a table of features.
        texts: whether the model has to encode texts.
        folds: whether it can cross-validate where a dataset has no split.
    """

    labelled: bool = False
    trains: bool = False
    texts: bool = False
    folds: bool = False
    items: tuple[Items, ...] = ("images",)
    fields: tuple[str, ...] = ()
    first_result: str | None = None


TASKS: dict[str, TaskKind] = {
    "zero_shot": TaskKind(labelled=True, texts=True),
    "linear_probe": TaskKind(labelled=True, trains=True),
    "retrieval": TaskKind(texts=True, fields=("caption",)),
    "vqa": TaskKind(trains=True, texts=True, fields=("question", "answer")),
    "survival": TaskKind(
        trains=True,
        folds=True,
        items=("images", "bags", "table"),
        fields=("time", "event"),
        first_result="survival_cox",
    ),
    "diagnosis": TaskKind(labelled=True, trains=True, items=("bags",), first_result="diagnosis_mean"),
}


def can_do(task: str, sides: Collection[Side]) -> bool:
    """Return whether a model that encodes these sides has what a task, or a part of one, needs."""
    return "text" in sides or task not in TASKS or not TASKS[task].texts


def known_task(name: str) -> str:
    """Return the name of a task; raise ValueError if there is no such task."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}{suggest(name, TASKS)}; there are {', '.join(TASKS)}")
    return name


TaskName = Annotated[str, AfterValidator(known_task)]
