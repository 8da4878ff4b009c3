"""Results that are there already: which are up to date, which must not be lost, and whose they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from evaluate.datasets.entry import DatasetEntry, TaskName
from evaluate.metrics.statistics import Mode
from evaluate.results.files import read_result, result_path
from evaluate.results.record import ModelFacts, ResultRecord, SkippedRecord
from store.errors import ConfigError

UNREAD = "unread"
"""Digest of the model of a dataset that brings its features, where that is not there."""


def request_digest(
    entry: DatasetEntry,
    task: TaskName,
    *,
    official: bool,
    mode: Mode | None,
    resamples: int,
    allow: Collection[str],
) -> str:
    """Return the SHA-256 of what decides a result, but for the model and the data themselves.

    Args:
        entry: of it the prompts, the positive class and the primary metric count; its items have a digest of their own.
        task: one of its tasks.
        official: see ``suite.Settings``, like the others.
        mode: of the resamples that was asked for.
        resamples: how many.
        allow: what is not refused, beside what the entry allows.
    """
    parts = {
        "classes": entry.class_names,
        "prompts": entry.prompts(),
        "negative_prompts": entry.prompts(negative=True) if entry.multi_label else None,
        "positive": entry.positive,
        "primary": entry.tasks[task].primary,
        "allow": sorted({*entry.allow, *allow}),
        "max_excluded": entry.max_excluded,
        "official": official and task == "zero_shot",
        "mode": mode,
        "resamples": resamples,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def kept_result(folder: Path, *, model: str, task: str, dataset: str) -> ResultRecord | None:
    """Return a result with its predictions; None where there is none, or a skipped one.

    Raises:
        EvaluationError: the record is damaged.
    """
    path = result_path(folder, model=model, task=task, dataset=dataset)
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    found = read_result(path)
    return found if isinstance(found, ResultRecord) else None


def still_true(there: ResultRecord, skipped: SkippedRecord) -> bool:
    """Return whether a result outlives a run that could not make it again.

    It does if model and data are the same, and if the data cannot be read now: a wrong data root costs no result.
    """
    data = skipped.dataset.digest
    return skipped.model.digest in (there.model.digest, UNREAD) and data in (there.dataset.digest, None)


def refuse_other_models(folder: Path, models: Iterable[ModelFacts]) -> None:
    """See that no model takes the name of another one, whose results it would replace.

    A model that was trained anew where the old one lay takes its place, and so does one that was moved.

    Args:
        folder: of the results.
        models: that are to be evaluated.

    Raises:
        ConfigError: the folder has results of another model under one of the names, or it is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder for results, found a file")
    for model in models:
        there = _any_result(folder, model.name)
        if there is not None and there.address != model.address and there.digest != model.digest:
            raise ConfigError(
                f"{folder}: the results of {model.name!r} are those of {there.address}, which is another model than "
                f"{model.address}",
                hint=f"give this one another name: OTHER={model.address}",
            )


def _any_result(folder: Path, model: str) -> ModelFacts | None:
    """Return what results under a model's name say of it; None where there are none."""
    own = result_path(folder, model=model, task="any", dataset="any").parents[1]
    found = (read_result(path) for path in sorted(own.glob("*/*.json")))
    return next((record.model for record in found if isinstance(record, ResultRecord)), None)
