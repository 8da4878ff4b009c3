"""Existing results: which are up to date, which must be kept, and which model they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluate.datasets.entry import DatasetEntry
from evaluate.metrics.bootstrap import Mode
from evaluate.results.files import is_record, read_result, result_path
from evaluate.results.record import ModelFacts, ResultRecord, SkippedRecord
from evaluate.tasks.texts import RULE
from store.errors import ConfigError
from store.files import find_paths
from store.images.decode import MAX_PIXELS

from .plan import Settings

UNREAD = "unread"
"""Model digest of a dataset that brings its own features but could not be read."""


def resampling_mode(task: str, settings: Settings) -> Mode | None:
    """Return the requested mode of the resamples; None for ``natural_mode``."""
    return "official" if settings.official and task == "zero_shot" else settings.mode


INTERVALS = 2
"""Version of the default resamples and intervals: models are compared on the same ones only."""
COMPARING_TEXTS = ("retrieval", "vqa")

PROTOCOL = {"zero_shot": 2, "linear_probe": 2, "survival": 2, "diagnosis": 2}
"""Version of how a task is done, where it is not the first; raised when its numbers change, so that they are made anew.

2: decisions at a threshold and calibration; few shots choose C on few items; survival obeys the dataset's split."""


def request_digest(entry: DatasetEntry, task: str, settings: Settings) -> str:
    """Return the SHA-256 of what decides a result apart from the model and the data.

    The entry counts with its prompts, positive class and primary metric; its items have a digest of their own.
    """
    parts: dict[str, Any] = {
        "classes": entry.class_names,
        "prompts": [] if entry.groups else entry.prompts(),
        "negative_prompts": entry.prompts(negative=True) if entry.multi_label else None,
        "positive": entry.positive,
        "primary": entry.tasks[task].primary,
        "allow": sorted({*entry.allow, *settings.allow}),
        "max_excluded": entry.max_excluded,
        "official": settings.official and task == "zero_shot",
        "mode": resampling_mode(task, settings),
        "resamples": settings.resamples,
        "intervals": INTERVALS,
    }
    if task in PROTOCOL:
        parts["protocol"] = PROTOCOL[task]
    clinical = entry.model_dump(include={"sensitivity", "prevalence", "subgroups"}, exclude_defaults=True)
    if clinical:
        parts["clinical"] = clinical
    if entry.groups:
        parts["groups"] = {group: [of.classes, entry.prompts(group=group)] for group, of in entry.groups.items()}
    if settings.max_pixels != MAX_PIXELS:
        parts["max_pixels"] = settings.max_pixels
    if task in COMPARING_TEXTS:
        parts["text_rule"] = RULE
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def kept_result(folder: Path, *, model: str, task: str, dataset: str) -> ResultRecord | None:
    """Return the record of a result whose predictions exist; None if there is none, or only a skipped one."""
    path = result_path(folder, model=model, task=task, dataset=dataset)
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    found = read_result(path)
    return found if isinstance(found, ResultRecord) else None


def still_true(there: ResultRecord, skipped: SkippedRecord) -> bool:
    """Return whether a result is kept although this run could not compute it again.

    It is kept if model and data are the same, or if the data cannot be read now: a wrong data root costs no result.
    """
    data = skipped.dataset.digest
    return skipped.model.digest in (there.model.digest, UNREAD) and data in (there.dataset.digest, None)


def refuse_other_models(folder: Path, models: Iterable[ModelFacts]) -> None:
    """Create the folder of results, and refuse models with the name of another model, whose results they would replace.

    A model that was trained again in the same place, or that was moved, replaces its own results.

    Raises:
        ConfigError: the folder has results of another model under one of the names, or it cannot be a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: expected a folder for results: {error.strerror}") from error
    for model in models:
        there = _any_result(folder, model.name)
        if there is not None and there.address != model.address and there.digest != model.digest:
            raise ConfigError(
                f"{folder}: the results of {model.name!r} are those of {there.address}, which is another model than "
                f"{model.address}",
                hint=f"give this one another name: OTHER={model.address}",
            )


def _any_result(folder: Path, model: str) -> ModelFacts | None:
    """Return the model of the results under a name; None if there are none."""
    own = result_path(folder, model=model, task="any", dataset="any").parents[1]
    found = (read_result(path) for path in sorted(find_paths(own, "*/*.json")) if is_record(path))
    return next((record.model for record in found if isinstance(record, ResultRecord)), None)
