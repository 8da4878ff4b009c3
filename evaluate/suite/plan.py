"""The evaluations that a suite runs, and its settings. No file is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluate.datasets.entry import DatasetEntry
from evaluate.datasets.registry import missing_files
from evaluate.datasets.task_kinds import TASKS
from evaluate.metrics.bootstrap import RESAMPLES, Mode
from evaluate.models.addresses import OWN_FEATURES, Address
from extract.teacher_files.entry import TeacherEntry
from store.images.decode import MAX_PIXELS
from store.images.depth import Window
from store.read.reader import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a suite.

    Attributes:
        mode: mode of the resamples; ``natural_mode`` of each task if None.
        official: compute scores and resamples as MMKD-CLIP's released evaluator does.
        again: evaluate again what has a result of the same model, data, prompts, metric and resamples.
        window: the pipeline's ``image.window``, part of a model's digest.
        overlap: look for the images of this store among the test images.
    """

    results: Path
    data_root: Path
    teachers: Mapping[str, TeacherEntry] = field(default_factory=dict)
    batch_size: int = 256
    threads: int = 2
    device: str = "cpu"
    max_pixels: int = MAX_PIXELS
    window: Window | None = None
    mode: Mode | None = None
    resamples: int = RESAMPLES
    official: bool = False
    allow: tuple[str, ...] = ()
    again: bool = False
    overlap: FeatureStore | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One model on one dataset in one task.

    Attributes:
        address: None if the dataset brings its features.
        missing: patterns of the dataset's files that no file matches.
    """

    address: Address | None
    entry: DatasetEntry
    task: str
    missing: tuple[str, ...] = ()

    @property
    def first_result(self) -> str:
        """The result that the task always has; some tasks have further ones."""
        return TASKS[self.task].first_result or self.task

    @property
    def model(self) -> str:
        """Name of the model in the results."""
        return OWN_FEATURES if self.address is None else self.address.name


def plan(
    models: Sequence[Address], entries: Iterable[DatasetEntry], *, tasks: Sequence[str], data_root: Path
) -> list[Evaluation]:
    """Return the evaluations, model by model, so that each model is loaded once.

    Args:
        models: at least one, unless every dataset brings its features.
        tasks: only these; all if empty.
    """
    chosen = list(entries)
    missing = {entry.name: tuple(missing_files(entry, data_root)) for entry in chosen}
    evaluations = []
    for address in [*models, None]:
        for entry in chosen:
            if (address is None) != brings_features(entry):
                continue
            evaluations += [
                Evaluation(address=address, entry=entry, task=task, missing=missing[entry.name])
                for task in entry.tasks
                if not tasks or task in tasks
            ]
    return evaluations


def brings_features(entry: DatasetEntry) -> bool:
    """Return whether a dataset has features instead of images, so that it needs no model."""
    return entry.read.format in {"bags", "survival_table"}
