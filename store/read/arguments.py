"""Checks the arguments that a reader of a store gives, so that a wrong one ends in a message and not in numpy."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from store.config.pipeline_file import Section
from store.config.problems import show, suggest, worded
from store.errors import ConfigError, StoreError

from .selection import Selection

Name = TypeVar("Name", bound=str)


def one_of(name: Name, known: Collection[Name], *, what: str) -> Name:
    """Return a name that is known.

    Raises:
        StoreError: it is not.
    """
    if name not in known:
        raise StoreError(f"{what}: expected {' or '.join(map(repr, known))}, got {name!r}{suggest(name, known)}")
    return name


def bounds_of(rows: object, count: int) -> range:
    """Return the row numbers of a slice.

    Raises:
        StoreError: it is no slice, or not one of whole numbers.
    """
    if not isinstance(rows, slice):
        raise StoreError(f"rows: expected a slice such as slice(0, 256), got {show(rows)}")
    try:
        return range(*rows.indices(count))
    except (TypeError, ValueError) as error:
        raise StoreError(f"rows: {rows} is no slice of rows: {error}") from None


def row_numbers(rows: Any, count: int) -> npt.NDArray[np.int64]:
    """Return the row numbers of a slice, (rows,) numbers or (N,) booleans; numbers below 0 count from the end.

    Raises:
        StoreError: it is none of these, or a row is beyond the store's rows.
    """
    if isinstance(rows, slice):
        return np.array(bounds_of(rows, count), dtype=np.int64)
    expected = f"rows: expected a slice, whole numbers or {count} booleans"
    try:
        chosen = np.asarray(rows)
    except ValueError:
        raise StoreError(f"{expected}, got lists of different lengths") from None
    if chosen.ndim != 1 or (chosen.dtype.kind not in "biu" and len(chosen)):
        raise StoreError(f"{expected}, got {chosen.dtype} of shape {chosen.shape}")
    if chosen.dtype == bool:
        if len(chosen) != count:
            raise StoreError(f"{expected}, got {len(chosen)} booleans")
        return np.flatnonzero(chosen)
    beyond = (chosen >= count) | (chosen < -count) if len(chosen) else np.zeros(0, dtype=bool)
    if beyond.any():
        found = f"row {chosen[beyond][0]} of a store that has {count}"
        raise StoreError(f"rows: {found}; rows are numbered from 0 to {count - 1}")
    rows_B = chosen.astype(np.int64)
    return np.where(rows_B < 0, rows_B + count, rows_B)


class _Select(Section):
    select: Selection


def selection_of(selection: Any) -> Selection:
    """Return a selection, whose rules may also be plain dictionaries as in the pipeline.

    Raises:
        ConfigError: it is none.
    """
    try:
        text = json.dumps({"select": selection}, default=lambda one: one.model_dump())
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(f"select: expected 'all' or rules by teacher, got {show(selection)}") from None
    try:
        return _Select.model_validate_json(text).select
    except ValidationError as invalid:
        raise ConfigError(worded(invalid, _Select)) from None
