"""A dataset as MMKD-CLIP's released evaluator has it; its prompts come from the authors' file, which is not shipped."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from store.errors import ConfigError

from .entry import DatasetEntry
from .prompts import ClassText

PROMPTS_FILE = Path("MMKD-CLIP/src/training/constants.py")
"""The prompts of the release, below the data root, where the repository is cloned to."""

CLONE = "git clone https://github.com/wangshansong1/MMKD-CLIP"


def official_entry(entry: DatasetEntry, root: Path) -> DatasetEntry:
    """Return a dataset with the released prompts of its classes where the released code has some, else as it is.

    The n-th class of the file is the n-th of the entry. The file is parsed; nothing of it is run.

    Args:
        root: the data root.

    Raises:
        ConfigError: the file is missing, or does not hold prompts of these classes.
    """
    if entry.released is None or entry.released.prompts is None:
        return entry
    found = _prompts(root / PROMPTS_FILE, entry.released.prompts, entry)
    classes = {
        label: ClassText(name=name, prompts=prompts)
        for label, name, prompts in zip(entry.classes, entry.class_names, found, strict=True)
    }
    provenance = entry.provenance.model_copy(update={"templates": "official", "metrics": "official"})
    return entry.model_copy(update={"classes": classes, "provenance": provenance})


def _prompts(path: Path, name: str, entry: DatasetEntry) -> list[list[str]]:
    hint = f"{CLONE} {path.parents[2]}, or evaluate {entry.name} without --official"
    try:
        statements = ast.parse(path.read_text()).body
    except FileNotFoundError:
        raise ConfigError(
            f"{entry.name}: --official takes the prompts of the released code from {path}, which is not there",
            hint=hint,
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as the released prompts: {error}", hint=hint) from None
    values = [
        statement.value
        for statement in statements
        if isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)
    ]
    try:
        found: Any = ast.literal_eval(values[-1]) if values else None
    except ValueError:
        found = None
    if not _are_prompts(found, len(entry.classes)):
        raise ConfigError(
            f"{path}: {name} is no dictionary of the prompts of {len(entry.classes)} classes, which {entry.name} needs",
            hint=hint,
        )
    return list(found.values())


def _are_prompts(found: Any, classes: int) -> bool:
    return (
        isinstance(found, dict)
        and len(found) == classes
        and all(
            isinstance(prompts, list) and prompts and all(isinstance(text, str) for text in prompts)
            for prompts in found.values()
        )
    )
