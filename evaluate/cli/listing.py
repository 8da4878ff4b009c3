"""Datasets as plain values, which ``python -m evaluate list`` and ``check`` print as text or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluate.datasets.entry import DatasetEntry
from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.datasets.registry import Status


def listing(status: Status, root: Path) -> dict[str, Any]:
    """Return one dataset of the registry as JSON values."""
    entry = status.entry
    plain = {"name", "title", "modality", "licence", "access", "get", "source", "citation", "notes"}
    return entry.model_dump(include=plain) | {
        "tasks": {task: use.primary for task, use in entry.tasks.items()},
        "classes": len(entry.classes),
        "provenance": entry.provenance.model_dump(exclude_none=True),
        "present": status.present,
        "missing": [str(root / pattern) for pattern in status.missing],
    }


def summary(dataset: LoadedDataset) -> dict[str, Any]:
    """Return the contents of a loaded dataset as JSON values."""
    return {
        "name": dataset.entry.name,
        "digest": dataset.digest,
        "split_digest": dataset.split_digest,
        "splits": {name: _split(split, dataset.entry) for name, split in dataset.splits.items()},
        "excluded": dataset.excluded,
        "duplicates": dataset.duplicates,
        "caveats": dataset.caveats,
    }


def _split(split: Split, entry: DatasetEntry) -> dict[str, Any]:
    found: dict[str, Any] = {"items": len(split)}
    if split.patients is not None:
        found["patients"] = len(set(split.patients))
    if split.image_digests is not None:
        found["distinct_images"] = len(set(split.image_digests))
    if split.bags is not None:
        found["tiles_or_files"] = sum(len(bag.digests) for bag in split.bags)
    if split.targets is not None:
        counts_C = (
            split.targets.sum(axis=0)
            if split.targets.ndim == 2
            else np.bincount(split.targets, minlength=len(entry.classes))
        )
        found["classes"] = dict(zip(entry.classes, counts_C.tolist(), strict=True))
    if split.answer_types is not None:
        found["closed_questions"] = split.answer_types.count("closed")
    if split.captions is not None:
        found["distinct_captions"] = len(set(split.captions))
    if split.events is not None:
        found["events"] = int(split.events.sum())
    if split.features is not None:
        found["features"] = split.features.shape[1]
        found["missing_values"] = int(np.isnan(split.features).sum())
    return found
