"""Selection: which (row, teacher) count as available for training. A policy over the store, never a deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from .config import Section
from .errors import ConfigError
from .records import Status


class TeacherSelection(Section):
    """Which rows one teacher may teach; all conditions that are given must hold.

    Attributes:
        modalities: only rows of these modalities.
        min_similarity: only rows whose image-text cosine under this teacher is at least this.
        top_quantile: only the rows with the highest cosine under this teacher, as a share of its ok rows. Cosines of
            different teachers cannot be compared, so there is no rule across teachers.
    """

    modalities: list[str] | None = None
    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    top_quantile: float | None = Field(default=None, gt=0, le=1)


Selection = Literal["all"] | dict[str, TeacherSelection]
"""``all``, or the teachers that may teach with their conditions; a teacher that is not listed teaches nothing."""


def available(
    selection: Selection,
    *,
    teachers: Sequence[str],
    status: Mapping[str, npt.NDArray[np.uint8]],
    similarity: Mapping[str, npt.NDArray[np.float32]],
    modality: npt.NDArray[np.object_],
) -> npt.NDArray[np.bool_]:
    """Apply a selection.

    Args:
        selection: the policy.
        teachers: T of them, in the order of the result's columns.
        status: per teacher (N,), of Status.
        similarity: per teacher (N,).
        modality: (N,), None where unknown.

    Returns:
        (N, T) availability.

    Raises:
        ConfigError: the policy names a teacher or a modality that the store does not have.
    """
    ok_NT = np.stack([status[teacher] == Status.OK for teacher in teachers], axis=1)
    if selection == "all":
        return ok_NT
    _check_names(selection, teachers, modality)
    for column, teacher in enumerate(teachers):
        rule = selection.get(teacher)
        ok_NT[:, column] &= _allowed(rule, ok_NT[:, column], similarity[teacher], modality) if rule else False
    return ok_NT


def _allowed(
    rule: TeacherSelection,
    ok_N: npt.NDArray[np.bool_],
    similarity_N: npt.NDArray[np.float32],
    modality_N: npt.NDArray[np.object_],
) -> npt.NDArray[np.bool_]:
    allowed_N = np.ones(len(ok_N), dtype=bool)
    if rule.modalities is not None:
        allowed_N &= np.isin(modality_N.astype(str), rule.modalities)
    if rule.min_similarity is not None:
        allowed_N &= similarity_N >= rule.min_similarity
    if rule.top_quantile is not None and ok_N.any():
        allowed_N &= similarity_N >= np.quantile(similarity_N[ok_N], 1 - rule.top_quantile)
    return allowed_N


def _check_names(
    selection: Mapping[str, TeacherSelection], teachers: Sequence[str], modality: npt.NDArray[np.object_]
) -> None:
    known = sorted({name for name in modality if name is not None})
    problems = [f"select.{name}: the store has no such teacher" for name in selection if name not in teachers]
    for teacher, rule in selection.items():
        problems += [
            f"select.{teacher}.modalities: no pair of the store has the modality {name!r}"
            for name in rule.modalities or []
            if name not in known
        ]
    if problems:
        raise ConfigError(
            "\n".join(problems),
            hint=f"the store's teachers are {', '.join(teachers)}; its modalities are {', '.join(known) or 'unknown'}",
        )
