"""Test sets of the claim: the registry's own, their validation splits, and the same with one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evaluate.datasets.registry import SHIPPED
from store.config.yaml_tree import parse
from store.files import write_atomic

from .corpora import DATASETS

UNSEEN = "lc25000_lung_224"
"""Tissue that nobody learns from."""

TEST, VALIDATION, ONE_PROMPT, ONE_PROMPT_STOP = "test", "validation", "one_prompt", "one_prompt_stop"


def write_entries(folder: Path, *, test: str) -> None:
    """Write the entries of each kind of results into a folder of that name.

    Args:
        test: the split that results called ``test`` are of; ``val`` keeps a trial away from the test splits.
    """
    for name in (*DATASETS, UNSEEN):
        entry = parse((SHIPPED / f"{name}.yaml").read_text()).data
        first = entry["templates"][0]
        kinds: Mapping[str, dict[str, Any]] = {
            TEST: _on(entry, test),
            VALIDATION: _on(entry, "val"),
            ONE_PROMPT: _on(entry, test) | {"templates": [first], "template_sets": []},
            ONE_PROMPT_STOP: _on(entry, test) | {"templates": [f"{first}."], "template_sets": []},
        }
        for kind, own in kinds.items():
            write_atomic(folder / kind / f"{name}.yaml", yaml.safe_dump(own, sort_keys=False).encode())


def _on(entry: dict[str, Any], split: str) -> dict[str, Any]:
    """Return an entry whose test items are those of a split; of ``val``, the test items are left out."""
    if split == "test":
        return entry
    changed = entry | {"split": {"rule": "field", "values": {"val": "test"}, "ignore": ["test"]}}
    changed.pop("counts", None)
    return changed
