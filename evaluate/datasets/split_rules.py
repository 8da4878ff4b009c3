"""Rules that split a dataset into train, val and test, and the pure functions that apply them.

docs/datasets.md describes every key.
"""

from __future__ import annotations

import fnmatch
import hashlib
from typing import Annotated, Literal

from pydantic import Field

from store.config.pipeline_file import Section
from store.errors import EvaluationError

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

By = Literal["image", "patient", "id"]

SPELLINGS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Names that datasets use for their splits, in lower case."""


class _Carving(Section):
    """Takes a share of train, ``val_share``, as validation split, by a digest of ``val_by``."""

    val_share: float = Field(default=0.0, ge=0, lt=1)
    val_by: By = "id"


class FieldSplit(_Carving):
    """A column names the split; usual spellings are known."""

    rule: Literal["field"]
    values: dict[str, SplitName] = {}
    ignore: list[str] = []


class FileSplit(_Carving):
    """The file of an item decides, by patterns relative to the data root."""

    rule: Literal["files"]
    train: list[str] = []
    val: list[str] = []
    test: list[str] = Field(min_length=1)


class DigestSplit(Section):
    """A digest decides: the same on every machine, whatever else the dataset contains."""

    rule: Literal["digest"]
    by: By
    salt: str
    train: float = Field(default=0.7, ge=0, lt=1)
    val: float = Field(default=0.1, ge=0, lt=1)


class NothingTrained(Section):
    """Every item is a test item: nothing is trained."""

    rule: Literal["all_test"]


class Folds(Section):
    """Every item is a test item of one fold, and its model is trained on the others; the seed decides the folds."""

    rule: Literal["folds"]
    count: int = Field(default=5, ge=2)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)  # what scikit-learn takes


SplitRule = Annotated[FieldSplit | FileSplit | DigestSplit | NothingTrained | Folds, Field(discriminator="rule")]


def share_of(text: str, *, salt: str) -> float:
    """Return a fixed number in [0, 1) for a text: the first 64 bits of a SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{salt}\n{text}".encode()).digest()[:8], "big") / 2**64


def split_of(rule: SplitRule, *, value: str | None, file: str, keys: dict[By, str | None]) -> SplitName | None:
    """Return the split of an item; None if it is left out.

    Args:
        value: content of the split column.
        file: the file that the item comes from, relative to the data root.
        keys: the item's name, its patient and its image's SHA-256.

    Raises:
        EvaluationError: the rule does not cover the item.
    """
    match rule:
        case NothingTrained() | Folds():
            return "test"
        case DigestSplit():
            place = share_of(_key(keys, rule.by), salt=rule.salt)
            # Not the sum of both first: 0.7 + 0.1 is 0.7999..., and the border would move.
            return "train" if place < rule.train else "val" if place - rule.train < rule.val else "test"
        case FieldSplit():
            if value in rule.ignore:
                return None
            found = _named(rule, value)
        case FileSplit():
            matching = [name for name in SPLITS if _matches(file, getattr(rule, name))]
            if not matching:
                raise EvaluationError(f"{file}: no pattern of split: matches this file")
            found = matching[0]
    if found == "train" and rule.val_share and share_of(_key(keys, rule.val_by), salt="val") < rule.val_share:
        return "val"
    return found


def _named(rule: FieldSplit, value: str | None) -> SplitName:
    found = rule.values.get(value or "") or SPELLINGS.get((value or "").lower())
    if found is None:
        raise EvaluationError(
            f"the split column says {value!r}; expected one of {', '.join({**SPELLINGS, **rule.values})}",
            hint="say what it means in the dataset's file, as in split: {rule: field, values: {VALUE: test}}",
        )
    return found


def _matches(file: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def _key(keys: dict[By, str | None], by: By) -> str:
    found = keys[by]
    if found is None:
        raise EvaluationError(f"the item {keys['id']!r} has no {by}, by which the dataset is to be split")
    return found
