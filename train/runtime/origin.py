"""The folder of a model says how it was made: its role, and the teachers of a student."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from store.config.problems import worded
from store.errors import ConfigError

from .run_folder import RECORD

ORIGIN_NAME = "mmkd.json"
"""The file of an exported folder, which lacks the record of its run."""

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Origin(BaseModel):
    """The making of a model.

    Attributes:
        role: ``task_only`` is trained on pairs alone.
        teachers: of a student, by the names that they have in its store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["student", "task_only"]
    teachers: tuple[Name, ...] = ()


def origin_of(identity: Mapping[str, Any]) -> Origin:
    """Return the origin of a run by its record."""
    # A run of stage 1 has no recipe.
    if identity["run"].get("recipe") in (None, "task_only"):
        return Origin(role="task_only")
    chosen = identity.get("select")
    specs: Mapping[str, str] = identity.get("store", {}).get("specs", {})
    return Origin(
        role="student", teachers=tuple(name for name in specs if not isinstance(chosen, Mapping) or name in chosen)
    )


def write_origin(folder: Path, origin: Origin) -> None:
    """Write the origin of a model into its folder."""
    (folder / ORIGIN_NAME).write_text(origin.model_dump_json(indent=1) + "\n")


def read_origin(folder: Path, *, of_run: bool = True) -> Origin | None:
    """Return the origin of the model in a folder; None where the folder says nothing of it.

    Args:
        of_run: the record of a run counts too, and not an exported model's file alone.

    Raises:
        ConfigError: the file that says it is damaged.
    """
    for name in (ORIGIN_NAME, RECORD) if of_run else (ORIGIN_NAME,):
        path = folder / name
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            continue
        try:
            return Origin.model_validate_json(text) if name == ORIGIN_NAME else origin_of(json.loads(text))
        except ValidationError as error:
            raise ConfigError(f"{path}: {worded(error, Origin)}", hint="export the model again") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}: not the record of a run: {type(error).__name__}: {error}") from error
    return None
